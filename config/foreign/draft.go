package foreign

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"pilotlight/config"
)

// Import is a configuration made of something else.
type Import struct {
	File  []byte   // pilotlight.yaml, which Parse takes
	Notes []string // what a person has to look at; the file has them as comments too
}

// draft is a configuration while it is made: keys in the order in which they were added, and notes as comments.
type draft struct {
	root  *section
	notes []string
}

// section is a mapping of the draft.
type section struct {
	draft *draft
	at    string // where it stands, for notes
	node  *yaml.Node
}

func newDraft() *draft {
	d := &draft{}
	d.root = &section{draft: d, node: &yaml.Node{Kind: yaml.MappingNode}}
	return d
}

// set adds a key with a scalar.
func (s *section) set(key string, value any) {
	s.add(key, scalar(value))
}

// list adds a key with a list of scalars, in one line. An empty one is left out.
func (s *section) list(key string, values []string) {
	if len(values) == 0 {
		return
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range values {
		list.Content = append(list.Content, scalar(v))
	}
	s.add(key, list)
}

// below adds a key with a mapping.
func (s *section) below(key string) *section {
	node := &yaml.Node{Kind: yaml.MappingNode}
	s.add(key, node)
	return &section{draft: s.draft, at: strings.TrimPrefix(s.at+"."+key, "."), node: node}
}

// item adds a key with a list of one mapping.
func (s *section) item(key string) *section {
	node := &yaml.Node{Kind: yaml.MappingNode}
	s.add(key, &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{node}})
	return &section{draft: s.draft, at: s.at, node: node}
}

func (s *section) add(key string, value *yaml.Node) {
	s.node.Content = append(s.node.Content, scalar(key), value)
}

// empty says that nothing was added.
func (s *section) empty() bool { return len(s.node.Content) == 0 }

// drop takes the last key back.
func (s *section) drop() { s.node.Content = s.node.Content[:len(s.node.Content)-2] }

// note says something of the section, to be written above the key that was added last.
func (s *section) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	where := s.at
	if where == "" {
		where = "file"
	}
	s.draft.notes = append(s.draft.notes, where+": "+text)
	if len(s.node.Content) == 0 {
		return
	}
	key := s.node.Content[len(s.node.Content)-2]
	key.HeadComment = strings.TrimPrefix(key.HeadComment+"\n# "+text, "\n")
}

func scalar(value any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch v := value.(type) {
	case string:
		n.SetString(v)
		if v == "" || strings.ContainsAny(v, "\n{}[],#:&*!|>'\"%@`\\") || looksOtherwise(v) {
			n.Style = yaml.DoubleQuotedStyle
		}
	case int:
		n.Value, n.Tag = strconv.Itoa(v), "!!int"
	case bool:
		n.Value, n.Tag = strconv.FormatBool(v), "!!bool"
	case fmt.Stringer: // durations and sizes
		n.Value = v.String()
	default:
		panic(fmt.Sprintf("BUG: a draft holds no %T", value))
	}
	return n
}

// looksOtherwise says whether a string would be read as a number, a truth value or nothing if it stood there as it is.
func looksOtherwise(s string) bool {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return true
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "~", "y", "n", "-":
		return true
	}
	return strings.HasPrefix(s, "-") && len(s) > 1 && s[1] == ' '
}

// finish writes the draft, and makes sure that it can be read. Its error is a mistake of ours, or what Parse finds wrong with names and
// values that were taken over as they are.
func (d *draft) finish(head string) (*Import, error) {
	var out bytes.Buffer
	for line := range strings.Lines(head) {
		out.WriteString("# " + strings.TrimRight(line, "\n") + "\n")
	}
	out.WriteString("\n")
	dumper, err := yaml.NewDumper(&out, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	if err := dumper.Dump(d.root.node); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	if err := dumper.Close(); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	if _, err := config.Parse("the file that was made", out.Bytes()); err != nil {
		return &Import{File: out.Bytes(), Notes: d.notes}, err
	}
	return &Import{File: out.Bytes(), Notes: d.notes}, nil
}
