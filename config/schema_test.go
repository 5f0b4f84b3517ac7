package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
)

// TestSchemaIsUpToDate holds schema.json, which editors complete and check configurations with, to the types and their
// comments.
func TestSchemaIsUpToDate(t *testing.T) {
	want := schema(t)
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("schema.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("schema.json is stale (%v); make it anew by: go test ./config -run Schema -update", err)
	}
}

func schema(t *testing.T) []byte {
	t.Helper()
	reflector := &jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true,
		FieldNameTag:               "yaml",
		Mapper:                     scalar,
	}
	if err := reflector.AddGoComments("pilotlight/config", ".", jsonschema.WithFullComment()); err != nil {
		t.Fatal(err)
	}
	for name, text := range reflector.CommentMap {
		reflector.CommentMap[name] = strings.ReplaceAll(text, "\n", " ")
	}
	s := reflector.Reflect(&Config{})
	s.Title = "pilotlight.yaml"
	s.Definitions["Config"] = s
	for _, v := range []any{&Config{}, &Model{}, &Backend{}, &Process{}, &Nomad{}, &Kubernetes{}, &Docker{}, &Overflow{}, &Consul{}, &Link{}, &Prices{}, &Serverless{}, &JWT{}} {
		setDefaults(v)
		addDefaults(t, s.Definitions, reflect.ValueOf(v).Elem())
	}
	delete(s.Definitions, "Config")
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// addDefaults notes in the schema of v's type what the keys have by default, and that their comments say so.
func addDefaults(t *testing.T, schemas jsonschema.Definitions, v reflect.Value) {
	t.Helper()
	for i, field := range reflect.VisibleFields(v.Type()) {
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch value := v.Field(i); {
		case value.Kind() == reflect.Struct:
			addDefaults(t, schemas, value)
		case !value.IsZero():
			property, _ := schemas[v.Type().Name()].Properties.Get(key)
			property.Default = value.Interface()
			if says := fmt.Sprintf("Default %v", property.Default); !strings.Contains(property.Description, says) {
				t.Errorf("the comment of %s.%s does not say: %s", v.Type().Name(), field.Name, says)
			}
		}
	}
}

// scalar is the schema of what is written as one word, and of lists and mappings of such; nil for other types.
func scalar(t reflect.Type) *jsonschema.Schema {
	zero := &jsonschema.Schema{Const: 0}
	text := &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}}}
	switch t {
	case reflect.TypeFor[Duration]():
		form := `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: form, Examples: []any{"90s", "1h30m"}}, zero}}
	case reflect.TypeFor[Size]():
		form := `^(0|[0-9]+(\.[0-9]+)? ?([kKMGTP]B|[KMGTP]iB|B))$`
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: form, Examples: []any{"64MiB", "1.5TB"}}, zero}}
	case reflect.TypeFor[Network]():
		return &jsonschema.Schema{Type: "string", Examples: []any{"10.0.0.0/8", "fd00::/8", "192.0.2.7"}}
	case reflect.TypeFor[Engine]():
		return enum(engines())
	case reflect.TypeFor[Sleep]():
		return enum(sleeps())
	case reflect.TypeFor[DockerAction]():
		return enum(dockerActions())
	case reflect.TypeFor[OverflowWhen]():
		return enum(reasons())
	case reflect.TypeFor[TLSVersion](): // YAML takes one without quotes for a number
		return &jsonschema.Schema{Enum: []any{TLS12, TLS13, 1.2, 1.3}}
	case reflect.TypeFor[ClientCert]():
		return enum(clientCerts())
	case reflect.TypeFor[CertificateName]():
		return enum(certificateNames())
	case reflect.TypeFor[JWTAlgorithm]():
		return enum(JWTAlgorithms())
	case reflect.TypeFor[KeyPriority]():
		return enum(keyPriorities())
	case reflect.TypeFor[Rate]():
		return &jsonschema.Schema{Type: "number", Minimum: "0", Maximum: json.Number(strconv.FormatInt(maxRate, 10))}
	case reflect.TypeFor[RoutingPolicy]():
		return enum(policies())
	case reflect.TypeFor[Weight]():
		return &jsonschema.Schema{Type: "number", Minimum: "0", Maximum: json.Number(strconv.Itoa(maxWeight))}
	case reflect.TypeFor[Price]():
		return &jsonschema.Schema{Type: "number", Minimum: "0", Maximum: json.Number(strconv.Itoa(maxPrice))}
	case reflect.TypeFor[Timing]():
		return enum(timings())
	case reflect.TypeFor[Ratio]():
		return &jsonschema.Schema{Type: "number", Minimum: "0", Maximum: "1"}
	case reflect.TypeFor[OTLPProtocol]():
		return enum(otlpProtocols())
	case reflect.TypeFor[KeepTrace]():
		return enum(keepTraces())
	case reflect.TypeFor[ClientTraces]():
		return enum(clientTraces())
	case reflect.TypeFor[SendTrace]():
		return enum(sendTraces())
	case reflect.TypeFor[Pay]():
		return enum(pays())
	case reflect.TypeFor[int]():
		return &jsonschema.Schema{Type: "integer", Minimum: "0"}
	case reflect.TypeFor[[]string]():
		return &jsonschema.Schema{Type: "array", Items: text}
	case reflect.TypeFor[map[string]string]():
		return &jsonschema.Schema{Type: "object", AdditionalProperties: text}
	}
	return nil
}

func enum[T any](names []T) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	for _, name := range names {
		s.Enum = append(s.Enum, name)
	}
	return s
}
