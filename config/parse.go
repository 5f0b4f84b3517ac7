package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxFile is the largest file that is read.
const maxFile = 1 << 20

// Load reads the file and checks it. Its error is Problems unless the file cannot be read.
func Load(file string) (*Config, error) {
	text, err := read(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, text)
}

// read is the content of the file, and one byte of what exceeds maxFile.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return text, nil
}

// Parse reads a configuration from text, fills in the defaults and checks its meaning. Its error is Problems: every
// mistake, at its place in the file called name.
func Parse(name string, text []byte) (*Config, error) {
	doc := &document{name: name}
	cfg := &Config{}
	doc.compose(text)
	if doc.root != nil {
		setDefaults(cfg)
		doc.root.decode(reflect.ValueOf(cfg).Elem())
		cfg.derive(doc.root)
		cfg.check(doc.root)
	}
	if len(doc.problems) > 0 {
		return nil, doc.sortedProblems()
	}
	return cfg, nil
}

// A document is one file while it is read.
type document struct {
	name     string
	lines    []string
	root     *place
	problems Problems
	places   int  // made so far, aliases expanded
	tooMuch  bool // places or their depth went over the bound
}

// problem notes a mistake. Column counts characters from 1; line 0 is the whole file.
func (d *document) problem(line, column int, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.name, Line: line, Column: column, Text: fmt.Sprintf(format, args...)})
}

func (d *document) problemAt(node *yaml.Node, format string, args ...any) {
	d.problem(node.Line, node.Column, format, args...)
}

// sortedProblems are the problems as they are handed out; those that will be shown have their source.
func (d *document) sortedProblems() Problems {
	ps := d.problems.sorted()
	for i := range ps[:min(len(ps), maxShown)] {
		switch line := ps[i].Line; {
		case i > 0 && ps[i-1].Line == line:
			ps[i].Source = ps[i-1].Source
		case line >= 1 && line <= len(d.lines):
			ps[i].Source = harmless(d.lines[line-1])
		}
	}
	return ps
}

// compose turns text into places. There is no root, but a problem, where there is nothing to decode.
func (d *document) compose(text []byte) {
	if len(text) > maxFile {
		d.problem(0, 0, "the file is larger than 1MiB")
		return
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
	d.lines = strings.Split(string(text), "\n")
	if !d.plain() {
		return
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		panic("BUG: a YAML loader without options is refused: " + err.Error())
	}
	var first, second yaml.Node
	err = loader.Load(&first)
	if errors.Is(err, io.EOF) || err == nil && isNull(first.Content[0]) {
		d.problem(0, 0, "the file is empty; it needs models at least")
		return
	}
	if err == nil {
		if err = loader.Load(&second); err == nil {
			d.problemAt(&second, "a second document starts here; a file holds one")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		d.syntax(err)
		return
	}
	if root := d.place(nil, first.Content[0], 0); !d.tooMuch {
		d.root = root
	}
}

// plain notes the first character that has no business in a text file. YAML takes some of them for line breaks.
func (d *document) plain() bool {
	for i, line := range d.lines {
		column := 0
		for at, r := range line {
			column++
			if r == utf8.RuneError && !strings.HasPrefix(line[at:], "\uFFFD") {
				d.problem(i+1, column, "the file is not UTF-8 here")
				return false
			}
			if r != '\t' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == '\uFEFF' || r == '\uFFFE' || r == '\uFFFF' {
				d.problem(i+1, column, `the character %U cannot stand in the file; write it as "\u%04x" in double quotes`, r, r)
				return false
			}
		}
	}
	return true
}

// syntax notes what the YAML parser stopped at.
func (d *document) syntax(err error) {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		d.problem(0, 0, "this is not YAML: %s", err)
		return
	}
	at := e.Mark
	if e.Message == "found unexpected end of stream" && e.ContextMark.Line > 0 {
		at = e.ContextMark // where the quote was opened says more than the end of the file
	}
	text := "this is not YAML: " + e.Message
	if e.ContextMsg != "" {
		text += " " + e.ContextMsg
	}
	d.problem(at.Line, at.Column, "%s%s", text, d.hint(e))
}

// hint is what most likely causes a syntax error.
func (d *document) hint(e *yaml.LoadError) string {
	switch e.Message {
	case "found character that cannot start any token":
		if e.Mark.Line <= len(d.lines) && strings.HasPrefix(strings.TrimLeft(d.lines[e.Mark.Line-1], " "), "\t") {
			return "; indent with spaces, not with tabs"
		}
		return "; put the value in quotes"
	case "mapping values are not allowed in this context":
		return `; put a value that holds ": " in quotes, or check the indentation`
	case "did not find expected key":
		return "; check the indentation and the quotes, here and on the line before"
	}
	return ""
}
