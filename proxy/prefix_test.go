package proxy

import (
	"strings"
	"testing"

	"pilotlight/router"
)

func TestAConversationGoesOnWhereItBegan(t *testing.T) {
	addr := answers(t, ok)
	r := real(t, addr)
	r.ready(8, addr, addr)
	c := r.dial()
	send := func(prompt string) Visit {
		n := len(r.edge.Visits())
		say(t, c, post(`,"messages":[{"role":"user","content":"`+prompt))
		return r.last(n + 1)
	}
	talk := func(s string, n int) string { return strings.Repeat(s, n/len(s)) }

	busy, err := r.router.TryAcquire(router.Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	first := send(talk("Tell me about pilot lights. ", 300) + `"}]`)
	busy.Release(router.OK)
	if first.Backend != "m-1" {
		t.Fatalf("it began on %s; want the one that is not busy", first.Backend)
	}
	again := send(talk("Tell me about pilot lights. ", 300) + `"},{"role":"assistant","content":"` + talk("They burn. ", 2000) + `"}]`)
	if again.Backend != "m-1" || again.Why.Factors.Prefix != 1 {
		t.Errorf("it went on on %s: %+v", again.Backend, again.Why)
	}
	for _, other := range []string{talk("Tell me about gas burners. ", 300), talk("Tell me about pilot lights. ", 200)} {
		if v := send(other + `"}]`); v.Backend != "m-0" || v.Why.Factors.Prefix != 0 {
			t.Errorf("another one, or one too short to tell, went to %s: %+v", v.Backend, v.Why)
		}
	}
}
