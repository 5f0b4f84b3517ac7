package tinymodel_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"pilotlight/deploy/tinymodel"
)

// A changed hash means changed models: what they answer changes too.
func TestOneSeedGivesTheSameBytesEverywhere(t *testing.T) {
	for seed, want := range map[uint64]string{
		1: "f8e4b3537a40f8969f790845b69ba29082e6d5a3ef30c3cf135ef0a34bbc1783",
		2: "271c3239764ce7d3b7413039ce41ec3ab408c42f988dee06475783b45d19aad1",
	} {
		sum := sha256.Sum256(model(t, seed))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("seed %d: got hash %s, want %s", seed, got, want)
		}
	}
}

func TestTheModelIsHalfAMegabyte(t *testing.T) {
	if got := len(model(t, 1)); got < 400<<10 || got > 600<<10 {
		t.Errorf("got %d bytes, want about half a megabyte", got)
	}
}

func model(t *testing.T, seed uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tinymodel.Write(&b, seed); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
