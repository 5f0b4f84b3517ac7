package proxy

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"
)

func TestScanFormFindsTheFields(t *testing.T) {
	tests := []struct {
		name, src string
		model     string
		stream    bool
	}{
		{"a form", formField("model", "m") + formField("stream", "true") + "--B--\r\n", "m", true},
		{"behind a file that looks like a form", formFile("file", "\r\n-- \r\nB--B\r\n\r\nname=\"model\"") + formField("model", "m") + "--B--", "m", false},
		{"a file called model is no field", formFile("model", "x") + formField("model", "m") + "--B--", "m", false},
		{"an empty field", formField("model", "") + "--B--", "", false},
		{"a field without even a line end", "--B\r\nContent-Disposition: form-data; name=model\r\n\r\n--B--", "", false},
		{"text before and after", "hello\r\n" + formField("model", "m") + "--B--\r\nbye\r\n--B\r\n", "m", false},
		{"padding after the boundary", strings.Replace(formField("model", "m"), "--B", "--B \t", 1) + "--B--", "m", false},
		{"a part without a header", "--B\r\n\r\nx\r\n" + formField("model", "m") + "--B--", "m", false},
		{"no parts", "--B--", "", false},
		{"a header in another case", "--B\r\ncontent-disposition:FORM-DATA;name=model\r\n\r\nm\r\n--B--", "m", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := scanForm([]byte(tt.src), "multipart/form-data; boundary=B")
			if err != nil {
				t.Fatal(err)
			}
			if got := string(found.model.of([]byte(tt.src))); got != tt.model || found.stream != tt.stream {
				t.Errorf("got %q, %t; want %q, %t", got, found.stream, tt.model, tt.stream)
			}
		})
	}
}

func TestScanFormSaysWhatIsMalformedAndWhere(t *testing.T) {
	tests := []struct{ name, src, want string }{
		{"no boundary", "model=m", "at byte 0: expected a boundary"},
		{"a longer boundary", "--BX\r\n\r\n\r\n--B--", "at byte 3: expected the end of a boundary's line"},
		{"no end of a header", "--B\r\nContent-Disposition: form-data", "at byte 3: expected the end of a part's header"},
		{"a very long header", "--B\r\nX: " + strings.Repeat("x", maxPartHead) + "\r\n\r\nx\r\n--B--", "at byte 3: expected the end of a part's header"},
		{"no end", formField("model", "m") + "--B", "at byte 59: expected the end of a boundary's line"},
		{"very many parts", strings.Repeat("--B\r\n\r\nx\r\n", maxParts) + "--B--", "at byte 10003: expected no more than 1000 parts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := scanForm([]byte(tt.src), "multipart/form-data; boundary=B")
			if err == nil || err.Error() != "malformed multipart body "+tt.want {
				t.Errorf("got %v; want malformed multipart body %s", err, tt.want)
			}
		})
	}
}

func TestScanFormWantsABoundaryOfUsualLength(t *testing.T) {
	for _, boundary := range []string{"", strings.Repeat("b", maxBoundary+1)} {
		_, err := scanForm([]byte("--"+boundary+"--"), `multipart/form-data; boundary="`+boundary+`"`)
		if err == nil || !strings.Contains(err.Error(), "must give its boundary") {
			t.Errorf("boundary %q: got %v; want an error", boundary, err)
		}
	}
}

// FuzzScanForm: what scanForm finds is what mime/multipart finds, and it takes every form that mime/multipart writes.
func FuzzScanForm(f *testing.F) {
	f.Add([]byte(formField("model", "m")+"--B--"), "model", "a file")
	f.Add([]byte(formFile("file", "m")+formField("model", "m")+"--B--\r\n"), "stream", "--B\r\n")
	f.Add([]byte("--B\r\nContent-Disposition: form-data; name=model\r\n\r\n--B--"), "a\"b", "")
	f.Fuzz(func(t *testing.T, src []byte, field, value string) {
		if found, err := scanForm(src, "multipart/form-data; boundary=B"); err == nil {
			if model, ok := standardModel(src, "B"); ok && model != string(found.model.of(src)) {
				t.Errorf("%q: got model %q; want %q", src, found.model.of(src), model)
			}
		}

		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		file, err := w.CreateFormFile("file", "a.wav")
		if err != nil {
			t.Fatal(err)
		}
		file.Write(src)
		if field != "model" {
			w.WriteField(field, value)
		}
		w.WriteField("model", value)
		w.Close()
		found, err := scanForm(b.Bytes(), w.FormDataContentType())
		if err != nil && len(field) < maxPartHead/4 {
			t.Fatal(err)
		}
		if model, ok := standardModel(b.Bytes(), w.Boundary()); err == nil && ok && model != string(found.model.of(b.Bytes())) {
			t.Errorf("got model %q; want %q", found.model.of(b.Bytes()), model)
		}
	})
}

// standardModel is the field model as the standard library reads it. It says false of what that cannot read.
func standardModel(src []byte, boundary string) (string, bool) {
	r := multipart.NewReader(bytes.NewReader(src), boundary)
	model := ""
	for {
		part, err := r.NextRawPart()
		if err == io.EOF {
			return model, true
		}
		if err != nil {
			return "", false
		}
		content, err := io.ReadAll(part)
		if err != nil || len(part.Header[textproto.CanonicalMIMEHeaderKey("Content-Disposition")]) > 1 {
			return "", false
		}
		if part.FormName() == "model" && part.FileName() == "" {
			model = string(content)
		}
	}
}

func BenchmarkScanForm(b *testing.B) {
	src := []byte(formFile("file", strings.Repeat("\r\x00\x01\x02\x03\x04\x05\x06\r\n-x", 100<<10)) + formField("model", "m") + "--B--\r\n")
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := scanForm(src, "multipart/form-data; boundary=B"); err != nil {
			b.Fatal(err)
		}
	}
}
