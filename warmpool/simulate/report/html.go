package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed page.html
var page string

// HTML writes a page that asks nobody for anything else, for light and dark screens.
func (p *Report) HTML(w io.Writer) error {
	ours := func(row []string) bool { name, _ := kind(row[0]); return name == p.Ours }
	t, err := template.New("report").Funcs(template.FuncMap{"ours": ours}).Parse(page)
	if err != nil {
		return fmt.Errorf("make a page of the report: %w", err)
	}
	in := map[string]any{"R": p, "Tables": p.Tables()}
	if p.Pool == nil {
		bright := light()
		bright.paper = rgb(0xf5f6f8) // the page's --sheet
		for name, l := range map[string]look{"Light": bright, "Dark": dark()} {
			if in[name], err = p.inline(l); err != nil {
				return err
			}
		}
	}
	return t.Execute(w, in)
}

// inline is the picture as a part of a page: on the page's own ground, and without the head of a file.
func (p *Report) inline(l look) (template.HTML, error) {
	var b bytes.Buffer
	if err := p.svg(&b, l); err != nil {
		return "", err
	}
	_, svg, _ := bytes.Cut(b.Bytes(), []byte("<svg"))
	return template.HTML("<svg" + string(svg)), nil //nolint:gosec // the SVG is gonum's, which escapes its text
}
