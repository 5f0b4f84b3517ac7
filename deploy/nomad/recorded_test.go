// Package nomad holds what the tests of Nomad's launcher have Nomad answer to Nomad's own client library.
package nomad

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/api"
)

// TestNomadsOwnLibraryKnowsEveryField: what the fake answers has no field that Nomad's types have not, and none of another type.
func TestNomadsOwnLibraryKnowsEveryField(t *testing.T) {
	for file, into := range map[string]any{
		"job": &api.Job{}, "allocations": &[]api.AllocationListStub{}, "allocation": &api.Allocation{}, "evaluations": &[]api.Evaluation{},
		"scale": &api.ScalingRequest{},
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "warmpool", "launch", "testdata", "nomad", file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
