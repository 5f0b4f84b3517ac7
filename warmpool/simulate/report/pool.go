package report

import (
	"fmt"
	"slices"
	"strconv"

	"pilotlight/warmpool/simulate"
)

// PoolRow is what one policy would have made of fixed memory.
type PoolRow struct {
	Policy string
	*simulate.PoolResult
}

func (p *Report) pool() Table {
	t := Table{
		Title: "What each policy would have made of the memory",
		Head: []string{
			"policy", "on disk %", "in host %", "delayed > 5 s %", "", "of sessions", "", "mean delay", "ahead/day from disk", "from host",
		},
		Note: "Shares are of requests. Delayed are those that waited for more than 5 s, for a load or for room; sessions are rows of the recording, however many requests " +
			"came with one. Beside both: the difference to gdsf. Ahead are loads before somebody asked.",
	}
	gdsf := slices.IndexFunc(p.Pool, func(r PoolRow) bool { return r.Policy == "gdsf" })
	for _, r := range p.Pool {
		requests, sessions := "", ""
		if gdsf >= 0 && r.Policy != "gdsf" {
			requests = change(float64(r.Late), float64(p.Pool[gdsf].Late))
			sessions = change(float64(r.LateRows), float64(p.Pool[gdsf].LateRows))
		}
		t.Rows = append(t.Rows, []string{
			r.Policy, share(of(r.Disk, r.Requests)), share(of(r.Host, r.Requests)), share(of(r.Late, r.Requests)), requests, strconv.FormatInt(r.LateRows, 10), sessions,
			seconds(r.Delay.Seconds()), fmt.Sprintf("%.0f", r.AheadDisk), fmt.Sprintf("%.0f", r.AheadHost),
		})
	}
	return t
}

func of(part, whole int64) float64 { return 100 * float64(part) / float64(max(whole, 1)) }

// poolObject is a PoolRow as JSON.
type poolObject struct {
	Policy   string  `json:"policy"`
	Requests int64   `json:"requests"`
	Sessions int64   `json:"sessions"`
	Disk     float64 `json:"disk_cold_pct"`
	Host     float64 `json:"host_wake_pct"`
	Late     float64 `json:"delayed_pct"` // for more than 5 s
	LateRows int64   `json:"delayed_sessions"`
	Delay    float64 `json:"mean_delay_seconds"`

	AheadDisk float64 `json:"ahead_disk_per_day"`
	AheadHost float64 `json:"ahead_host_per_day"`
}

func (r *PoolRow) object() poolObject {
	return poolObject{
		r.Policy, r.Requests, r.Rows, of(r.Disk, r.Requests), of(r.Host, r.Requests), of(r.Late, r.Requests), r.LateRows, r.Delay.Seconds(), r.AheadDisk, r.AheadHost,
	}
}
