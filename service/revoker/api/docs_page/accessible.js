// Names, levels and landmarks that Swagger UI leaves out, set whenever it has added elements to the page.
const LEVELS = {H3: 2, H4: 3, H5: 4, H6: 4}

const NAMES = {
  ".scheme-container": "Authorization",
  ".modal-ux": "Available authorizations",
  ".close-modal": "Close",
  ".examples-select-element": "Examples",
  ".body-param__text": "Request body",
  ".json-schema-2020-12-accordion:has(> .json-schema-2020-12-accordion__children:empty)": "Schema",
}

const ROLES = {".information-container": "banner", ".scheme-container": "region", ".modal-ux": "dialog"}

const UNWANTED = {
  "button a": "href", // a control in the button that opens an operation; that button changes the address too
  ".responses-table": "role", // a table, not a region
  "div.copy-to-clipboard": "aria-label", // the button in it has the name
  ".auth-btn-wrapper button": "aria-label", // other words than the button shows
  ".auth-container input": "aria-label", // other words than the label of the field
  ".parameter__empty_value_toggle": "for", // the id of the first of these boxes, in the label of each
}

const page = document.getElementById("swagger-ui")

function onAll(selector, change) {
  for (const element of page.querySelectorAll(selector)) change(element)
}

function complete() {
  for (const [selector, name] of Object.entries(NAMES)) onAll(selector, (element) => { element.ariaLabel = name })
  for (const [selector, role] of Object.entries(ROLES)) onAll(selector, (element) => { element.role = role })
  for (const [selector, name] of Object.entries(UNWANTED)) onAll(selector, (element) => element.removeAttribute(name))
  onAll("h3, h4, h5, h6", (heading) => {
    heading.ariaLevel = heading.closest(".models") ? 2 : LEVELS[heading.tagName]
  })
  onAll("pre.microlight", (code) => { code.tabIndex = 0 }) // it may scroll
  onAll(":is([data-param-name], [data-property-name]) :is(select, textarea, input:not([type=checkbox]))", (field) => {
    const {paramName, propertyName} = field.closest("tr").dataset
    field.ariaLabel = paramName ?? propertyName
  })
  onAll(".auth-container:has(#auth-bearer-value)", (scheme) => { // two schemes have a field of this id
    const id = `bearer-of-${scheme.querySelector("h4 code").textContent}`
    scheme.querySelector("#auth-bearer-value").id = id
    scheme.querySelector("label").htmlFor = id
  })
}

new MutationObserver(complete).observe(page, {childList: true, subtree: true})
