package main

import (
	"reflect"
	"strings"
	"testing"

	"pilotlight/config"
)

func TestTheTraceIsReadOrItIsSaidWhereItIsNot(t *testing.T) {
	all, err := parse(strings.NewReader(excerpt))
	if err != nil || len(all) != 2867 || all[0] != (arrival{0, 374, 44}) {
		t.Errorf("got %d requests, the first %+v: %v", len(all), all[0], err)
	}
	for text, want := range map[string]string{
		"":                               "does not begin",
		"a,b,c\n1,2,3\n":                 "does not begin",
		"TIMESTAMP,C,G\n":                "does not begin",
		"TIMESTAMP,C,G\nyesterday,1,1\n": "line 2",
		"TIMESTAMP,C,G\n2023-11-16 18:15:46.68,1,many\n":                              "line 2",
		"TIMESTAMP,C,G\n2023-11-16 18:15:46.68,1,1\n2023-11-16 18:15:45.68,1,1\n":     "line 3",
		"TIMESTAMP,C,G\n2023-11-16 18:15:46.68,1,1\n2023-11-16 18:15:46.68,few,1\n\n": "line 3",
	} {
		if _, err := parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
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
