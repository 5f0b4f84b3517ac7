//go:build linux && cgo

package nvml

import (
	"context"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pilotlight/probe"
)

// listen waits for errors that the driver reports, on a thread of its own, until ctx ends. What cannot be waited for, as with
// MIG and without privileges, is left to the looks.
func (l *looker) listen(ctx context.Context) {
	lib := &library{Interface: l.Interface, has: map[string]bool{}} // what it has looked up belongs to one goroutine
	var set nvml.EventSet
	if lib.ask(func() (r nvml.Return) { set, r = lib.EventSetCreate(); return r }, "nvmlEventSetCreate") != nvml.SUCCESS {
		return
	}
	if !l.register(lib, set) {
		return
	}
	for ctx.Err() == nil {
		var e nvml.EventData
		r := lib.ask(func() (r nvml.Return) { e, r = set.Wait(1000); return r }, "nvmlEventSetWait_v2", "nvmlEventSetWait")
		switch r {
		case nvml.SUCCESS:
			if e.EventType == nvml.EventTypeXidCriticalError {
				l.mu.Lock()
				l.events = append(l.events, event{e.Device, probe.Xid{At: time.Now(), Code: int(e.EventData)}})
				l.mu.Unlock()
			}
		case nvml.ERROR_TIMEOUT:
		case nvml.ERROR_FUNCTION_NOT_FOUND:
			return
		default: // a wait that fails at once must not spin
			select {
			case <-time.After(eventPause):
			case <-ctx.Done():
			}
		}
	}
}

// register asks for the events of every GPU and says whether any will come.
func (l *looker) register(lib *library, set nvml.EventSet) (any bool) {
	var count int
	lib.ask(func() (r nvml.Return) { count, r = lib.DeviceGetCount(); return r }, "nvmlDeviceGetCount_v2", "nvmlDeviceGetCount")
	for i := range count {
		var d nvml.Device
		if lib.ask(func() (r nvml.Return) { d, r = lib.DeviceGetHandleByIndex(i); return r },
			"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex") != nvml.SUCCESS {
			continue
		}
		any = lib.ask(func() nvml.Return { return d.RegisterEvents(nvml.EventTypeXidCriticalError, set) }, "nvmlDeviceRegisterEvents") == nvml.SUCCESS || any
	}
	return any
}
