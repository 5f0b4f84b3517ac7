package config

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
)

// TestReferenceIsUpToDate holds docs/configuration.md to the types and their comments, by way of the schema.
func TestReferenceIsUpToDate(t *testing.T) {
	const file = "../docs/configuration.md"
	want := reference(t)
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s is stale (%v); make it anew by: go test ./config -run Reference -update", file, err)
	}
}

// reference is a section for the file and one for each mapping in it, each after the first that holds it.
func reference(t *testing.T) string {
	t.Helper()
	var all jsonschema.Schema
	if err := json.Unmarshal(schema(t), &all); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nEvery key of `pilotlight.yaml`. A test writes this page from the types and their comments: `go test ./config -run Reference -update`.\n" +
		"`pilotlight check FILE` says what is wrong with a file, `pilotlight check --print FILE` how it is understood, defaults filled in. Editors complete and check with\n" +
		"[schema.json](../config/schema.json): `# yaml-language-server: $schema=PATH/schema.json`. Examples: [deploy/examples](../deploy/examples).\n")
	section(&b, "The file", &all)
	known := map[string]bool{}
	for open := mappings(&all); len(open) > 0; open = open[1:] {
		name := open[0]
		if known[name] {
			continue
		}
		known[name] = true
		section(&b, name, all.Definitions[name])
		open = append(open, mappings(all.Definitions[name])...)
	}
	for name := range all.Definitions {
		if !known[name] {
			t.Errorf("nothing leads to %s", name)
		}
	}
	return b.String()
}

func section(b *strings.Builder, name string, s *jsonschema.Schema) {
	fmt.Fprintf(b, "\n## %s\n\n", name)
	if s.Description != "" {
		fmt.Fprintf(b, "%s\n\n", s.Description)
	}
	b.WriteString("| key | is | |\n|---|---|---|\n")
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", pair.Key, form(pair.Value), strings.ReplaceAll(pair.Value.Description, "|", `\|`))
	}
}

// mappings are the types of the keys that hold mappings with keys of their own, in order.
func mappings(s *jsonschema.Schema) (names []string) {
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		for _, at := range []*jsonschema.Schema{pair.Value, pair.Value.Items, pair.Value.AdditionalProperties} {
			if at != nil && at.Ref != "" {
				names = append(names, typeOf(at))
			}
		}
	}
	return names
}

func typeOf(s *jsonschema.Schema) string { return strings.TrimPrefix(s.Ref, "#/$defs/") }

// form says in a word or two what a value looks like.
func form(s *jsonschema.Schema) string {
	switch {
	case s == nil:
		return "anything"
	case s.Ref != "":
		return fmt.Sprintf("[%s](#%s)", typeOf(s), strings.ToLower(typeOf(s)))
	case len(s.Enum) > 0:
		return wordsOf(s.Enum)
	case len(s.AnyOf) > 0:
		return anyForm(s.AnyOf)
	case s.Type == "array":
		return "list of " + form(s.Items)
	case s.Type == "object":
		return "mapping to " + form(s.AdditionalProperties)
	case s.Type == "":
		return "anything"
	}
	return s.Type
}

func wordsOf(words []any) string {
	var b strings.Builder
	for i, word := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "`%v`", word)
	}
	return b.String()
}

func anyForm(ways []*jsonschema.Schema) string {
	switch first := ways[0]; {
	case len(first.Examples) == 0:
		return "text"
	case first.Examples[0] == "90s":
		return "duration"
	default:
		return "size"
	}
}
