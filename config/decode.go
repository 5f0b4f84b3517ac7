package config

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decode stores what the place holds and notes every mistake in it. Into keeps its default where the file is silent
// or wrong.
func (p *place) decode(into reflect.Value) {
	switch into.Kind() {
	case reflect.Struct:
		p.decodeStruct(into)
	case reflect.Pointer:
		into.Set(p.decodeNew(into.Type().Elem()))
	case reflect.Map:
		p.decodeMap(into)
	case reflect.Slice:
		p.decodeSlice(into)
	default:
		p.decodeScalar(into)
	}
}

// decodeNew is a pointer to a new value, its defaults set before the file speaks.
func (p *place) decodeNew(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	setDefaults(v.Interface())
	p.decode(v.Elem())
	return v
}

func (p *place) decodeStruct(into reflect.Value) {
	if !p.is(yaml.MappingNode, "keys") {
		return
	}
	fields := reflect.VisibleFields(into.Type())
	byKey := make(map[string]int, len(fields))
	keys := make([]string, len(fields))
	for i, field := range fields {
		keys[i], _, _ = strings.Cut(field.Tag.Get("yaml"), ",")
		byKey[keys[i]] = i
	}
	given := make(map[string]bool, len(p.in))
	for _, pair := range p.in {
		key := pair.key.Value
		given[key] = true
		if i, known := byKey[key]; known {
			pair.decode(into.Field(i))
		} else {
			p.doc.problemAt(pair.key, "unknown key %s; %s", quote(key), suggest(key, keys))
		}
	}
	for i, field := range fields {
		if field.Tag.Get("jsonschema") == "required" && !given[keys[i]] {
			p.problem("%s needs %q", p.name(), keys[i])
		}
	}
}

func (p *place) decodeMap(into reflect.Value) {
	if !p.is(yaml.MappingNode, "keys") || len(p.in) == 0 {
		return
	}
	into.Set(reflect.MakeMap(into.Type()))
	for _, pair := range p.in {
		key := reflect.ValueOf(pair.key.Value)
		into.SetMapIndex(key, pair.decodeNew(into.Type().Elem()).Elem())
	}
}

func (p *place) decodeSlice(into reflect.Value) {
	if !p.is(yaml.SequenceNode, "a list in brackets or with dashes") || len(p.in) == 0 {
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(p.in), len(p.in)))
	for i, item := range p.in {
		into.Index(i).Set(item.decodeNew(into.Type().Elem()).Elem())
	}
}

func (p *place) decodeScalar(into reflect.Value) {
	if p.node.Kind != yaml.ScalarNode {
		p.malformed("%s takes one value, not %s", p.name(), p.describe())
		return
	}
	if isNull(p.node) {
		p.malformed("%s has no value", p.name())
		return
	}
	text := p.node.Value
	if typed, ok := reflect.TypeAssert[encoding.TextUnmarshaler](into.Addr()); ok {
		if err := typed.UnmarshalText([]byte(text)); err != nil {
			p.malformed("%s", err)
		}
		return
	}
	switch into.Kind() {
	case reflect.String:
		if strings.ContainsRune(text, 0) {
			p.malformed("%s holds a NUL character", p.name())
		}
		into.SetString(text)
	case reflect.Bool:
		if p.node.Tag != "!!bool" {
			p.malformed("%s takes true or false, not %s", p.name(), p.describe())
			return
		}
		into.SetBool(strings.EqualFold(text, "true"))
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil || p.node.Tag != "!!int" {
			p.malformed("%s takes a whole number, not %s", p.name(), p.describe())
		} else if n < 0 {
			p.malformed("%s is %d; it must be 0 or more", p.name(), n)
		} else {
			into.SetInt(int64(n))
		}
	default:
		panic("BUG: no key of the file can be a " + into.Type().String())
	}
}

// is tells whether the place holds a mapping or a list, as it should; nothing at all is an empty one.
func (p *place) is(kind yaml.Kind, what string) bool {
	if p.node.Kind != kind && !isNull(p.node) {
		p.malformed("%s takes %s, not %s", p.name(), what, p.describe())
	}
	return !p.bad
}

// describe is what the place holds, in a message.
func (p *place) describe() string {
	switch p.node.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return quote(p.node.Value)
}
