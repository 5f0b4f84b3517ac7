package proxy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// maxDepth is how deep a JSON body may be nested.
const maxDepth = 1000

// fields is what a body says of itself.
type fields struct {
	model  span // its value, of whatever type; in JSON a string has its quotes
	name   span // likewise: Ollama's older word for it
	prompt span // likewise, by whatever word for it
	stream bool
}

// malformed says what is wrong with a body.
type malformed struct {
	what string // JSON, multipart body
	at   int    // the first byte that cannot be, counted from 0
	want string // what could
}

func (m *malformed) Error() string {
	return fmt.Sprintf("malformed %s at byte %d: expected %s", m.what, m.at, m.want)
}

// scan finds the fields of a JSON object in one pass. It says of every valid object what encoding/json says of it, case
// of keys included; only one that has "model" twice is an error, because backends differ on which they take. Not
// every invalid body is an error: how numbers are written, and what is inside strings that it skips, is left to
// validJSON.
func scan(src []byte) (fields, error) {
	s := scanner{src: src}
	var found fields
	if s.next() != '{' {
		s.fail("an object")
	} else if s.object(&found) {
		if s.next(); s.at < len(src) {
			s.fail("nothing after the object")
		}
	}
	return found, s.err
}

// scanner walks over a JSON text. Its methods that give a bool give false once there is an error.
type scanner struct {
	src   []byte
	at    int
	depth int
	err   error
}

func (s *scanner) fail(want string) bool {
	s.err = &malformed{"JSON", s.at, want}
	return false
}

// next skips white space and gives the byte behind it; at the end 0, which may stand nowhere.
func (s *scanner) next() byte {
	for ; s.at < len(s.src); s.at++ {
		if c := s.src[s.at]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c
		}
	}
	return 0
}

// enter goes past an opening bracket.
func (s *scanner) enter() bool {
	if s.depth++; s.depth > maxDepth {
		return s.fail(fmt.Sprintf("no more than %d levels", maxDepth))
	}
	s.at++
	return true
}

// leave goes past a closing bracket.
func (s *scanner) leave() bool {
	s.depth--
	s.at++
	return true
}

// value goes past any value.
func (s *scanner) value() bool {
	switch s.next() {
	case '"':
		return s.text()
	case '{':
		return s.object(nil)
	case '[':
		return s.array()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// object goes past an object and, unless found is nil, notes its fields.
func (s *scanner) object(found *fields) bool {
	if !s.enter() {
		return false
	}
	if s.next() == '}' {
		return s.leave()
	}
	for {
		if s.next() != '"' {
			return s.fail("a key in quotes")
		}
		key := s.at
		if !s.text() {
			return false
		}
		keyEnd := s.at
		if s.next() != ':' {
			return s.fail("a colon")
		}
		s.at++
		s.next()
		value := s.at
		if !s.value() || found != nil && !s.note(found, span{key, keyEnd}, span{value, s.at}) {
			return false
		}
		switch s.next() {
		case ',':
			s.at++
		case '}':
			return s.leave()
		default:
			return s.fail("a comma or a closing brace")
		}
	}
}

// note keeps a field that matters.
func (s *scanner) note(found *fields, key, value span) bool {
	switch word := s.src[key.from+1 : key.to-1]; {
	case spells(word, "model"):
		if found.model.to > 0 {
			s.err = errors.New(`the body has "model" twice; which one counts is anybody's guess`)
			return false
		}
		found.model = value
	case spells(word, "name"):
		found.name = value
	case spells(word, "messages"), spells(word, "prompt"), spells(word, "inputs"), spells(word, "input"):
		found.prompt = value
	case spells(word, "stream"):
		found.stream = string(value.of(s.src)) == "true"
	}
	return true
}

// spells says whether the inside of a JSON string is a word of ASCII letters, each of which may be escaped: \u006d.
func spells(text []byte, word string) bool {
	for i := range len(word) {
		var c [2]byte
		switch {
		case len(text) >= 6 && text[0] == '\\' && text[1] == 'u':
			if _, err := hex.Decode(c[:], text[2:6]); err != nil {
				return false
			}
			text = text[6:]
		case len(text) > 0:
			c[1], text = text[0], text[1:]
		}
		if c[0] != 0 || c[1] != word[i] {
			return false
		}
	}
	return len(text) == 0
}

func (s *scanner) array() bool {
	if !s.enter() {
		return false
	}
	if s.next() == ']' {
		return s.leave()
	}
	for {
		if !s.value() {
			return false
		}
		switch s.next() {
		case ',':
			s.at++
		case ']':
			return s.leave()
		default:
			return s.fail("a comma or a closing bracket")
		}
	}
}

// text goes past a string: to the first quote with an even number of backslashes before it.
func (s *scanner) text() bool {
	s.at++
	from := s.at
	for {
		i := bytes.IndexByte(s.src[s.at:], '"')
		if i < 0 {
			s.at = len(s.src)
			return s.fail("the end of a string")
		}
		quote := s.at + i
		s.at = quote + 1
		before := quote
		for before > from && s.src[before-1] == '\\' {
			before--
		}
		if (quote-before)%2 == 0 {
			return true
		}
	}
}

func (s *scanner) word(w string) bool {
	if !bytes.HasPrefix(s.src[s.at:], []byte(w)) {
		return s.fail("a value")
	}
	s.at += len(w)
	return true
}

// number goes past a run of what numbers are made of.
func (s *scanner) number() bool {
	from := s.at
	for s.at < len(s.src) && numeric(s.src[s.at]) {
		s.at++
	}
	if s.at == from {
		return s.fail("a value")
	}
	return true
}

func numeric(c byte) bool {
	return c-'0' < 10 || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E'
}

// unquote decodes a JSON string. It copies only what has escapes or bad UTF-8 in it.
func unquote(literal []byte) ([]byte, bool) {
	inside := literal[1 : len(literal)-1]
	plain := utf8.Valid(inside)
	for _, c := range inside {
		plain = plain && c >= ' ' && c != '\\'
	}
	if plain {
		return inside, true
	}
	var text string
	if json.Unmarshal(literal, &text) != nil {
		return nil, false
	}
	return []byte(text), true
}

// mention decodes the place of the body that names the model.
func (f *fields) mention(body []byte, form form, api api) (mention, error) {
	at := f.model
	if form == fieldset {
		return mention{at.of(body), at}, nil
	}
	null := at.to == 0 || string(at.of(body)) == "null"
	if null && api == ollama {
		at = f.name
		null = at.to == 0 || string(at.of(body)) == "null"
	}
	if null {
		return mention{}, nil
	}
	if body[at.from] != '"' {
		return mention{}, errors.New(`"model" must be a string`)
	}
	name, ok := unquote(at.of(body))
	if !ok {
		return mention{}, &malformed{"JSON", at.from, "a valid string"}
	}
	return mention{name, at}, nil
}

// validJSON says what is wrong with a JSON text, to the last byte.
func validJSON(b []byte) error {
	if json.Valid(b) {
		return nil
	}
	err := json.Unmarshal(b, new(any))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("malformed JSON at byte %d: %w", max(syntax.Offset-1, 0), err)
	}
	return fmt.Errorf("malformed JSON: %w", err)
}
