//go:build linux && cgo

package nvml

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pilotlight/config"
	"pilotlight/probe"
)

// device is one GPU or one MIG instance, and what has been seen of it.
type device struct {
	handle nvml.Device // nil where the driver gives none
	board  nvml.Device // of an instance: its GPU
	mig    bool        // it is an instance, or a GPU that is divided

	gpu      probe.GPU
	failed   nvml.Return       // the worst that a call answered in this look
	deaf     nvml.Return       // why its memory could not be read when that was last tried
	unusable string            // why nothing can run on it although the driver is fine
	silent   map[string]string // what the driver does not say, and why

	ring   ring
	moving int // ticks for which its memory is looked at each time, since it changes

	used map[int]use // of each process, when last seen
	last uint64      // the newest time of a process's sample, microseconds
}

func newDevice(index int) *device {
	return &device{
		gpu: probe.GPU{
			Index: index, NUMA: -1, Total: -1, Used: -1, Free: -1, Reserved: -1, Busy: -1, Energy: -1, Power: -1, Heat: -1, Clock: -1, ECC: -1, Remapped: -1,
			Recovery: probe.RecoveryUnknown,
		},
		silent: map[string]string{}, used: map[int]use{},
	}
}

// begin begins a look. What a GPU that has no handle failed with stays.
func (d *device) begin() {
	if d.handle != nil {
		d.failed = nvml.SUCCESS
	}
}

// call makes one call for the device, if there is any sense in it, and says whether it was answered. What names its answer for
// people; empty where nobody misses it.
func (d *device) call(l *library, what string, call func() nvml.Return, symbols ...string) bool {
	if d.handle == nil || gone(d.failed) {
		return false
	}
	r := l.ask(call, symbols...)
	switch {
	case r == nvml.SUCCESS:
		delete(d.silent, what)
		return true
	case gone(r), broken(r):
		d.failed = r
	case silent(r) && what != "":
		d.silent[what] = say(r)
	}
	return false
}

// use reads how busy the device and its processes were since the last look.
func (d *device) use(l *library) {
	const what = "utilisation"
	now := time.Now()
	var samples []sample
	asked := func(since uint64) nvml.Return {
		kind, raw, r := d.handle.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, since)
		if r == nvml.SUCCESS {
			samples = percents(kind, raw)
		}
		if r == nvml.ERROR_NOT_FOUND { // nothing newer
			return nvml.SUCCESS
		}
		return r
	}
	if !d.call(l, what, func() nvml.Return { return asked(d.ring.since(now)) }, "nvmlDeviceGetSamples") {
		d.gpu.Busy = -1
		return
	}
	d.gpu.Busy, d.gpu.Ran = d.ring.add(samples, now)
	if d.ring.newest > 0 {
		d.gpu.RanAt = time.UnixMicro(int64(d.ring.newest))
	}
	if d.ring.quiet(now) {
		var rates nvml.Utilization
		d.gpu.Busy = -1
		if d.call(l, "", func() (r nvml.Return) { rates, r = d.handle.GetUtilizationRates(); return r }, "nvmlDeviceGetUtilizationRates") {
			d.gpu.Busy = min(float64(rates.Gpu)/100, 1)
		}
	}
	d.share(l, now)
}

// percents are the samples of a ring as the driver gives them, without what is none.
func percents(kind nvml.ValueType, raw []nvml.Sample) []sample {
	var samples []sample
	for _, s := range raw {
		v := binary.NativeEndian.Uint64(s.SampleValue[:])
		if kind == nvml.VALUE_TYPE_UNSIGNED_INT {
			v = uint64(binary.NativeEndian.Uint32(s.SampleValue[:]))
		}
		if s.TimeStamp > 0 && v <= 100 {
			samples = append(samples, sample{at: s.TimeStamp, share: float64(v) / 100})
		}
	}
	return samples
}

// share reads what part of the device's time each process had. A driver that says "not found" saw none at work.
func (d *device) share(l *library, now time.Time) {
	var samples []nvml.ProcessUtilizationSample
	if !d.call(l, "utilisation of processes", func() (r nvml.Return) {
		if samples, r = d.handle.GetProcessUtilization(d.last); r == nvml.ERROR_NOT_FOUND {
			samples, r = nil, nvml.SUCCESS
		}
		return r
	}, "nvmlDeviceGetProcessUtilization") {
		return
	}
	for _, s := range samples {
		if s.TimeStamp == 0 || s.SmUtil > 100 { // drivers fill up with rubbish: Syllo/nvtop#110
			continue
		}
		d.used[int(s.Pid)] = use{share: float64(s.SmUtil) / 100, at: now}
		d.last = max(d.last, s.TimeStamp)
	}
	if d.last > uint64(now.Add(time.Minute).UnixMicro()) { // the clock was set back
		d.last = uint64(now.UnixMicro())
	}
	for i, p := range d.gpu.Processes {
		d.gpu.Processes[i].Busy = d.used[p.PID].now(now)
	}
}

// A change of a GPU's memory that is worth a closer look. A driver may list a process later than the memory that it takes.
const (
	moved   = 64 * config.MiB
	closely = 2 * everySlow // ticks
)

// memory reads how much of it is used, and notes whether that changes.
func (d *device) memory(l *library) {
	was := d.gpu.Used
	d.sizes(l)
	if d.moving--; max(was-d.gpu.Used, d.gpu.Used-was) >= moved && was >= 0 {
		d.moving = closely
	}
	d.moving = max(d.moving, 0)
}

// sizes reads the sizes of its memory. Before driver 510 what the driver reserved counted as used.
func (d *device) sizes(l *library) {
	d.deaf = nvml.SUCCESS
	var m nvml.Memory_v2
	if d.call(l, "", func() nvml.Return { m, d.deaf = d.handle.GetMemoryInfo_v2(); return d.deaf }, "nvmlDeviceGetMemoryInfo_v2") {
		d.gpu.Total, d.gpu.Used, d.gpu.Free, d.gpu.Reserved = config.Size(m.Total), config.Size(m.Used), config.Size(m.Free), config.Size(m.Reserved)
		return
	}
	d.gpu.Total, d.gpu.Used, d.gpu.Free, d.gpu.Reserved = -1, -1, -1, -1
	if d.deaf != nvml.SUCCESS && !silent(d.deaf) {
		return
	}
	var old nvml.Memory
	if d.call(l, "memory", func() nvml.Return { old, d.deaf = d.handle.GetMemoryInfo(); return d.deaf }, "nvmlDeviceGetMemoryInfo") {
		d.gpu.Total, d.gpu.Used, d.gpu.Free = config.Size(old.Total), config.Size(old.Used), config.Size(old.Free)
	}
}

// processes reads who holds memory: with compute, graphics or both.
func (d *device) processes(l *library, known *processes) {
	holding := map[int]config.Size{}
	listed := d.list(l, "processes", holding, nvml.Device.GetComputeRunningProcesses, "nvmlDeviceGetComputeRunningProcesses")
	if listed {
		d.list(l, "", holding, nvml.Device.GetGraphicsRunningProcesses, "nvmlDeviceGetGraphicsRunningProcesses")
	}
	now := time.Now()
	d.gpu.Processes = nil
	for _, pid := range slices.Sorted(maps.Keys(holding)) {
		p := probe.Process{PID: pid, Used: holding[pid], Busy: -1}
		if d.silent["utilisation"] == "" && d.silent["utilisation of processes"] == "" {
			p.Busy = d.used[pid].now(now)
		}
		known.describe(&p)
		d.gpu.Processes = append(d.gpu.Processes, p)
	}
	maps.DeleteFunc(d.used, func(_ int, u use) bool { return now.Sub(u.at) > time.Minute })
}

func (d *device) list(l *library, what string, holding map[int]config.Size, list func(nvml.Device) ([]nvml.ProcessInfo, nvml.Return), symbol string) bool {
	var infos []nvml.ProcessInfo
	ok := d.call(l, what, func() (r nvml.Return) { infos, r = list(d.handle); return r }, symbol+"_v3", symbol+"_v2", symbol)
	for _, p := range infos {
		used := config.Size(p.UsedGpuMemory)
		if p.UsedGpuMemory == 1<<64-1 || used < 0 { // NVML_VALUE_NOT_AVAILABLE
			used = -1
		}
		if have, twice := holding[int(p.Pid)]; !twice || have < used { // it computes and draws
			holding[int(p.Pid)] = used
		}
	}
	return ok
}

// power reads what the device takes and why it is slower than it could be.
func (d *device) power(l *library) {
	var energy, reasons uint64
	d.gpu.Energy = -1
	if d.call(l, "energy", func() (r nvml.Return) { energy, r = d.handle.GetTotalEnergyConsumption(); return r }, "nvmlDeviceGetTotalEnergyConsumption") {
		d.gpu.Energy = int64(energy)
	}
	var n uint32
	d.gpu.Power, d.gpu.Heat, d.gpu.Clock, d.gpu.Throttled = -1, -1, -1, 0
	if d.call(l, "power", func() (r nvml.Return) { n, r = d.handle.GetPowerUsage(); return r }, "nvmlDeviceGetPowerUsage") {
		d.gpu.Power = float64(n) / 1000
	}
	if d.call(l, "temperature", func() (r nvml.Return) { n, r = d.handle.GetTemperature(nvml.TEMPERATURE_GPU); return r }, "nvmlDeviceGetTemperature") {
		d.gpu.Heat = int(n)
	}
	if d.call(l, "clock", func() (r nvml.Return) { n, r = d.handle.GetClockInfo(nvml.CLOCK_SM); return r }, "nvmlDeviceGetClockInfo") {
		d.gpu.Clock = int(n)
	}
	// The second is what the first was called before driver 535.
	if d.call(l, "", func() (r nvml.Return) { reasons, r = d.handle.GetCurrentClocksEventReasons(); return r }, "nvmlDeviceGetCurrentClocksEventReasons") ||
		d.call(l, "reasons for being slow", func() (r nvml.Return) { reasons, r = d.handle.GetCurrentClocksThrottleReasons(); return r }, "nvmlDeviceGetCurrentClocksThrottleReasons") {
		d.gpu.Throttled = probe.Throttle(reasons)
	}
}

// wear reads what speaks of a GPU's health. What the driver does not say of an instance, it may say of its GPU.
func (d *device) wear(l *library) {
	h := d.handle
	if d.board != nil {
		h = d.board
	}
	var errors uint64
	d.gpu.ECC, d.gpu.Remapped, d.gpu.RemapPending, d.gpu.RemapFailed = -1, -1, false, false
	if d.call(l, "memory errors", func() (r nvml.Return) {
		errors, r = h.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
		return r
	}, "nvmlDeviceGetTotalEccErrors") {
		d.gpu.ECC = int64(errors)
	}
	var corrected, uncorrected int
	if d.call(l, "remapped rows", func() (r nvml.Return) {
		corrected, uncorrected, d.gpu.RemapPending, d.gpu.RemapFailed, r = h.GetRemappedRows()
		return r
	}, "nvmlDeviceGetRemappedRows") {
		d.gpu.Remapped = corrected + uncorrected
	}
	d.gpu.Recovery = probe.RecoveryUnknown
	fields := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if d.call(l, "recovery action", func() nvml.Return {
		if r := h.GetFieldValues(fields); r != nvml.SUCCESS {
			return r
		}
		return nvml.Return(fields[0].NvmlReturn)
	}, "nvmlDeviceGetFieldValues") {
		d.gpu.Recovery = probe.Recovery(binary.NativeEndian.Uint32(fields[0].Value[:]))
	}
}

// reading is a copy of what is known of the device.
func (d *device) reading() probe.GPU {
	g := d.gpu
	g.Processes, g.Xids = slices.Clone(g.Processes), slices.Clone(g.Xids)
	switch {
	case d.failed != nvml.SUCCESS:
		g.Health, g.Reason = probe.Sick, say(d.failed)
	case d.unusable != "":
		g.Health, g.Reason = probe.Sick, d.unusable
	case d.deaf != nvml.SUCCESS && !silent(d.deaf):
		g.Health, g.Reason = probe.Unknown, "its memory cannot be read: "+say(d.deaf)
	}
	for _, what := range slices.Sorted(maps.Keys(d.silent)) {
		g.Silent = append(g.Silent, what+": "+d.silent[what])
	}
	return g
}
