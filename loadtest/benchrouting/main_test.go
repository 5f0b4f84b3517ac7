package main

import (
	"reflect"
	"strings"
	"testing"

	"pilotlight/config"
)

func TestTheExcerptIsRead(t *testing.T) {
	all, err := parse(strings.NewReader(excerpt))
	if err != nil || len(all) != 2867 || all[0] != (arrival{0, 374, 44}) {
		t.Errorf("got %d requests, the first %+v: %v", len(all), all[0], err)
	}
	if _, err := parse(strings.NewReader("a,b,c\n1,2,3\n")); err == nil {
		t.Error("what is no recording is read")
	}
}

func TestScoresKeepTheSlowestFirstTokensShort(t *testing.T) {
	all, err := parse(strings.NewReader(excerpt))
	if err != nil {
		t.Fatal(err)
	}
	all = all[:1000]
	ours := simulate(0, config.Scored, all)
	if again := simulate(0, config.Scored, all); len(ours) != len(all) || !reflect.DeepEqual(ours, again) {
		t.Errorf("%d first tokens of %d requests, and %d another time", len(ours), len(all), len(again))
	}
	if ours, others := quantile(ours, 0.99), quantile(simulate(0, config.LeastConnections, all), 0.99); ours > others*7/10 {
		t.Errorf("p99 is %s, and %s by least connections", ours, others)
	}
}
