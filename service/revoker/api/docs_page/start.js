// Addresses are relative to the page, so that it also works behind a proxy that adds a prefix.
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  syntaxHighlight: {theme: "tomorrow-night"}, // numbers in the default theme have too little contrast
  validatorUrl: null, // by default the document is sent to a host on the internet
})
