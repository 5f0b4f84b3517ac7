//go:build linux && cgo

package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// library is the driver's own library, of which we call only what it has.
type library struct {
	nvml.Interface
	has map[string]bool // what was looked up
}

// open loads the library at path, or the system's where that is empty.
func open(path string) (*library, nvml.Return) {
	var options []nvml.LibraryOption
	if path != "" {
		options = append(options, nvml.WithLibraryPath(path))
	}
	l := &library{Interface: nvml.New(options...), has: map[string]bool{}}
	return l, l.Init()
}

// ask makes one call if the library has one of the symbols that it may be bound to; it must never be made otherwise, since
// the process would end. A panic of the binding counts as a failed call: GetProcessUtilization of v0.13.4-1 slices beyond
// what it has where the number of processes grows while it looks.
func (l *library) ask(call func() nvml.Return, symbols ...string) (r nvml.Return) {
	found := false
	for _, symbol := range symbols {
		has, known := l.has[symbol]
		if !known {
			has = l.Extensions().LookupSymbol(symbol) == nil
			l.has[symbol] = has
		}
		found = found || has
	}
	if !found {
		return nvml.ERROR_FUNCTION_NOT_FOUND
	}
	defer func() {
		if recover() != nil {
			r = nvml.ERROR_UNKNOWN
		}
	}()
	return call()
}

// gone says whether a call's failure means that the GPU itself is out of order.
func gone(r nvml.Return) bool {
	return r == nvml.ERROR_GPU_IS_LOST || r == nvml.ERROR_RESET_REQUIRED || r == nvml.ERROR_GPU_NOT_FOUND
}

// broken says whether it means that nothing of the driver works any more in this process.
func broken(r nvml.Return) bool {
	switch r {
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_OPERATING_SYSTEM:
		return true
	default:
		return false
	}
}

// silent says whether it means that the driver does not tell this of this GPU, now or later.
func silent(r nvml.Return) bool {
	return r == nvml.ERROR_NOT_SUPPORTED || r == nvml.ERROR_FUNCTION_NOT_FOUND || r == nvml.ERROR_NO_PERMISSION
}

// say is a failure for people. The library's own texts are not used: they need a call into it.
func say(r nvml.Return) string {
	switch r {
	case nvml.ERROR_NOT_SUPPORTED:
		return "not supported by this GPU or its mode"
	case nvml.ERROR_FUNCTION_NOT_FOUND:
		return "this driver is too old for it"
	case nvml.ERROR_NO_PERMISSION:
		return "it needs more rights"
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_GPU_NOT_FOUND:
		return "the driver has lost the GPU; it has fallen off the bus, or hangs"
	case nvml.ERROR_RESET_REQUIRED:
		return "the GPU needs a reset"
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "the library cannot be loaded"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the driver is not loaded (modprobe nvidia; nvidia-smi tells more)"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "the driver and its library are of different versions: one was upgraded without the other; reboot, or load the driver again"
	case nvml.ERROR_OPERATING_SYSTEM:
		return "the operating system keeps us from the GPU's device, as a control group does after systemctl daemon-reload"
	case nvml.ERROR_UNINITIALIZED:
		return "the library has lost the driver"
	default:
		return fmt.Sprintf("NVML error %d", int(r))
	}
}
