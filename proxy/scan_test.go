package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// chat is a chat completion of about size bytes, with the model behind a long conversation as in some clients.
func chat(size int) string {
	const message = `{"role":"user","content":"What is a pilot light?\nIt is the small flame that lets the burner \"light at once\", ` +
		`so that nobody has to look for matches in the dark, strike one, and hold it where the gas comes out, hoping for the best."}`
	messages := message
	for len(messages) < size-100 {
		messages += ", " + message
	}
	return `{"messages": [` + messages + `], "temperature": 0.7, "stream": true, "model": "llama-8b"}`
}

func TestScanSaysWhatIsMalformedAndWhere(t *testing.T) {
	deep := strings.Repeat("[", maxDepth)
	tests := []struct{ name, src, want string }{
		{"nothing", ``, "at byte 0: expected an object"},
		{"a byte order mark", "\ufeff{}", "at byte 0: expected an object"},
		{"null", `null`, "at byte 0: expected an object"},
		{"an open object", `{`, "at byte 1: expected a key in quotes"},
		{"a bare key", `{model:1}`, "at byte 1: expected a key in quotes"},
		{"a comma too many", `{"a":1,}`, "at byte 7: expected a key in quotes"},
		{"no colon", `{"a" 1}`, "at byte 5: expected a colon"},
		{"no value", `{"a":}`, "at byte 5: expected a value"},
		{"a word cut short", `{"a":tru}`, "at byte 5: expected a value"},
		{"a word that goes on", `{"a":nullx}`, "at byte 9: expected a comma or a closing brace"},
		{"no comma", `{"a":1 "b":2}`, "at byte 7: expected a comma or a closing brace"},
		{"an open array", `{"a":[1`, "at byte 7: expected a comma or a closing bracket"},
		{"the wrong bracket", `{"a":[1}}`, "at byte 7: expected a comma or a closing bracket"},
		{"an open string", `{"a":"b\"}`, "at byte 10: expected the end of a string"},
		{"an open key", `{"a`, "at byte 3: expected the end of a string"},
		{"two objects", `{"a":1} {}`, "at byte 8: expected nothing after the object"},
		{"a zero byte", "{\"a\":1}\x00", "at byte 7: expected nothing after the object"},
		{"too deep", `{"a":` + deep, "at byte 1004: expected no more than 1000 levels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := scan([]byte(tt.src))
			if err == nil || err.Error() != "malformed JSON "+tt.want {
				t.Errorf("got %v; want malformed JSON %s", err, tt.want)
			}
		})
	}
}

func TestScanGoesAsDeepAsItSays(t *testing.T) {
	src := `{"a":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `}`
	if _, err := scan([]byte(src)); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
}

func TestValidJSONSaysWhere(t *testing.T) {
	for src, want := range map[string]string{
		`{"a":[1,2]}`: "<nil>",
		`{"a":01}`:    "malformed JSON at byte 6: invalid character '1' after object key:value pair",
		`{"a":"\q"}`:  "malformed JSON at byte 7: invalid character 'q' in string escape code",
		`{"a":`:       "malformed JSON at byte 4: unexpected end of JSON input",
	} {
		if got := fmt.Sprint(validJSON([]byte(src))); got != want {
			t.Errorf("%s: got %s; want %s", src, got, want)
		}
	}
}

// FuzzScan holds scan to its promise: of every valid object it says what encoding/json says of it.
func FuzzScan(f *testing.F) {
	for _, src := range []string{
		chat(300), `{}`, ` {"model" : "a" , "stream":true}`, `{"Model":"a"}`, `{"mod\u0065l":"a\n\u00e9\ud83d\ude00"}`, `{"model":"\ud800"}`,
		"{\"model\":\"a\xff\"}", "{\"model\xff\":1}", `{"model":"a","model":"b"}`, `{"model":null,"stream":"true"}`, `{"model":{"model":"a"}}`, `{"stream":true,"stream":false}`,
		`{"a":[{},[],"\\",-1.5e+7,true,false,null],"name":"\\\"","model":"m"}`, `[]`, `null`, "\ufeff{}", `{"a":1}x`, "{\"model\":\"\x01\"}", `{"\u006D\u006F\u0064\u0065\u006c":"x"}`,
	} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		found, err := scan(src)
		var want map[string]json.RawMessage
		if json.Unmarshal(src, &want) != nil || want == nil {
			if err == nil && validJSON(src) == nil {
				t.Fatalf("took %q for an object", src)
			}
			return
		}
		if err != nil {
			if !strings.Contains(err.Error(), "twice") && !strings.Contains(err.Error(), "levels") {
				t.Fatalf("%q is valid, but: %v", src, err)
			}
			return
		}
		if raw, ok := want["model"]; ok != (found.model.to > 0) || !bytes.Equal(raw, found.model.of(src)) {
			t.Errorf("%q: got model %s; want %s", src, found.model.of(src), raw)
		}
		if raw := want["name"]; !bytes.Equal(raw, found.name.of(src)) {
			t.Errorf("%q: got name %s; want %s", src, found.name.of(src), raw)
		}
		if got := string(want["stream"]) == "true"; got != found.stream {
			t.Errorf("%q: got stream %t; want %t", src, found.stream, got)
		}
		var model struct{ text *string }
		isString := json.Unmarshal(want["model"], &model.text) == nil
		got, err := found.mention(src, object, openAI)
		switch {
		case want["model"] == nil:
		case isString != (err == nil):
			t.Errorf("%q: got error %v", src, err)
		case isString && model.text != nil && *model.text != string(got.name):
			t.Errorf("%q: got model %q; want %q", src, got.name, *model.text)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	numbers := `{"input":[` + strings.Repeat("128000,", 15000) + `1],"model":"m"}`
	for _, bb := range []struct{ name, src string }{
		{"1KiB", chat(1 << 10)},
		{"100KiB", chat(100 << 10)},
		{"100KiB-one-string", `{"model":"m","prompt":"` + strings.Repeat("a pilot light ", 7300) + `"}`},
		{"100KiB-quotes", `{"model":"m","prompt":"` + strings.Repeat(`\"a\": \"b\",\n`, 7300) + `"}`},
		{"100KiB-tokens", numbers},
	} {
		b.Run(bb.name, func(b *testing.B) {
			src := []byte(bb.src)
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := scan(src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
