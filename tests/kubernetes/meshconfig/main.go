// Command meshconfig reads a MeshConfig of Istio as JSON, strictly: unknown fields and wrong types are errors.
package main

import (
	"io"
	"log"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = protojson.Unmarshal(text, &mesh.MeshConfig{})
	}
	if err != nil {
		log.Fatal(err)
	}
}
