package probe

import "testing"

func TestWhoseAProcessIs(t *testing.T) {
	o := Owners{cgroup: "/user.slice", servers: []server{
		{"vllm", 100, 50, "/user.slice"},
		{"inner", 110, 60, "/user.slice"},
		{"unit", 200, 50, "/system.slice/unit.service"},
	}}
	for name, c := range map[string]struct {
		p    Process
		want string
	}{
		"the server itself": {Process{Born: 50, Lineage: []int{100, 1}}, "vllm"},
		"a child's child":   {Process{Born: 70, Lineage: []int{102, 101, 100, 1}}, "vllm"},
		"the nearest server, where servers are nested": {Process{Born: 70, Lineage: []int{111, 110, 100, 1}}, "inner"},
		"an orphan in the server's group":              {Process{Born: 70, Lineage: []int{103, 1}, Group: 100}, "vllm"},
		"an orphan in the server's control group":      {Process{Born: 70, Lineage: []int{203, 1}, Cgroup: "/system.slice/unit.service"}, "unit"},
		"one in the control group that all are in":     {Process{Born: 70, Lineage: []int{104, 1}, Cgroup: "/user.slice"}, ""},
		"one of which the PID was used before":         {Process{Born: 40, Lineage: []int{100, 1}}, ""},
		"one that is older than the server's group":    {Process{Born: 40, Lineage: []int{99, 1}, Group: 100}, ""},
		"one of which nothing is known":                {Process{PID: 101}, ""},
		"the server, of which nothing is known":        {Process{PID: 100, Born: 50}, "vllm"},
	} {
		if got := o.Of(c.p); got != c.want {
			t.Errorf("%s: it is %q's, want %q", name, got, c.want)
		}
	}
}
