package tinymodel

import (
	"encoding/binary"
	"fmt"
)

// gguf is a GGUF file, version 3, in the making: keys with values, then the tensors' names and shapes, then their data.
type gguf struct {
	keys, tensors        int
	values, shapes, data []byte
}

// alignment of each tensor's data, in bytes.
const alignment = 32

// The types of values, as GGUF counts them, and the only type of tensor that we write.
const (
	typeUint32  uint32 = 4
	typeInt32   uint32 = 5
	typeFloat32 uint32 = 6
	typeBool    uint32 = 7
	typeString  uint32 = 8
	typeArray   uint32 = 9

	tensorF32 uint32 = 0
)

// set adds a key.
func (g *gguf) set(key string, value any) {
	g.keys++
	g.values = appendString(g.values, key)
	switch v := value.(type) {
	case uint32:
		g.values = appendNumbers(g.values, typeUint32, v)
	case float32:
		g.values = appendNumbers(g.values, typeFloat32, v)
	case bool:
		g.values = appendNumbers(g.values, typeBool, v)
	case string:
		g.values = appendString(appendNumbers(g.values, typeString), v)
	case []int32:
		g.values = appendNumbers(g.values, typeArray, typeInt32, uint64(len(v)), v)
	case []float32:
		g.values = appendNumbers(g.values, typeArray, typeFloat32, uint64(len(v)), v)
	case []string:
		g.values = appendNumbers(g.values, typeArray, typeString, uint64(len(v)))
		for _, s := range v {
			g.values = appendString(g.values, s)
		}
	default:
		panic(fmt.Sprintf("BUG: GGUF key %s has a value of type %T, which we do not write", key, value))
	}
}

// tensor adds a tensor. Of its shape, the dimension whose neighbours are neighbours in memory comes first.
func (g *gguf) tensor(name string, data []float32, shape ...int) {
	g.tensors++
	g.shapes = appendString(g.shapes, name)
	g.shapes = appendNumbers(g.shapes, uint32(len(shape)))
	for _, n := range shape {
		g.shapes = appendNumbers(g.shapes, uint64(n))
	}
	g.shapes = appendNumbers(g.shapes, tensorF32, uint64(len(g.data)))
	g.data = aligned(appendNumbers(g.data, data))
}

// bytes is the whole file.
func (g *gguf) bytes() []byte {
	head := appendNumbers([]byte("GGUF"), uint32(3), uint64(g.tensors), uint64(g.keys))
	head = append(append(head, g.values...), g.shapes...)
	return append(aligned(head), g.data...)
}

func appendString(b []byte, s string) []byte {
	return append(appendNumbers(b, uint64(len(s))), s...)
}

// appendNumbers appends numbers and slices of numbers of a fixed size.
func appendNumbers(b []byte, numbers ...any) []byte {
	for _, n := range numbers {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, n); err != nil {
			panic(fmt.Sprintf("BUG: %v", err))
		}
	}
	return b
}

func aligned(b []byte) []byte {
	return append(b, make([]byte, (alignment-len(b)%alignment)%alignment)...)
}
