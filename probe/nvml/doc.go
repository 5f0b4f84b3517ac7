// Package nvml sees a node's GPUs through NVIDIA's management library. It looks, and never changes anything of a GPU.
//
// Calls of the library may block in the kernel for ever, and one that an older driver does not have ends the process. So the
// library lives in a process of its own: Look, which writes one reading a line. Watch starts that process, starts it anew
// when it ends, and says that GPUs are unknown while it is silent. Nobody who asks Watch ever waits for the driver.
package nvml

import "errors"

// ErrNoLibrary says that there is nothing to look with: no NVIDIA driver is installed here, or this program was built without it.
var ErrNoLibrary = errors.New("there is no NVIDIA library here")
