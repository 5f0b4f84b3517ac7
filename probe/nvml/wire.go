package nvml

import (
	"pilotlight/config"
	"pilotlight/probe"
)

// reading is a probe.GPUs as it is written. Its sizes are plain numbers: as texts they could not be -1.
type reading struct {
	probe.GPUs
	HostTotal, HostFree int64
	Each                []gpu // in place of GPUs.GPUs
}

type gpu struct {
	probe.GPU
	Total, Used, Free, Reserved int64
	Processes                   []process
}

type process struct {
	probe.Process
	Used int64
}

func write(r probe.GPUs) *reading {
	w := &reading{GPUs: r, HostTotal: int64(r.HostTotal), HostFree: int64(r.HostFree)}
	w.GPUs.GPUs = nil
	for _, g := range r.GPUs {
		one := gpu{GPU: g, Total: int64(g.Total), Used: int64(g.Used), Free: int64(g.Free), Reserved: int64(g.Reserved)}
		for _, p := range g.Processes {
			one.Processes = append(one.Processes, process{p, int64(p.Used)})
		}
		w.Each = append(w.Each, one)
	}
	return w
}

func (w *reading) read() probe.GPUs {
	r := w.GPUs
	r.HostTotal, r.HostFree, r.GPUs = config.Size(w.HostTotal), config.Size(w.HostFree), nil
	for _, one := range w.Each {
		g := one.GPU
		g.Total, g.Used, g.Free, g.Reserved, g.Processes = config.Size(one.Total), config.Size(one.Used), config.Size(one.Free), config.Size(one.Reserved), nil
		for _, p := range one.Processes {
			p.Process.Used = config.Size(p.Used)
			g.Processes = append(g.Processes, p.Process)
		}
		r.GPUs = append(r.GPUs, g)
	}
	return r
}
