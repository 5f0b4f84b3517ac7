package nvml

import (
	"os"
	"path/filepath"
)

// Installed says whether there are signs of an NVIDIA driver on this machine, without loading anything: its devices, its
// kernel module, or its library where distributions and containers have it. Watch finds out for certain.
func Installed() bool {
	signs := []string{
		"/dev/nvidiactl", "/proc/driver/nvidia/version",
		"/dev/dxg",                      // Windows' subsystem for Linux
		"/dev/nvhost-gpu", "/dev/nvgpu", // Jetson
	}
	dirs := append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")),
		"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib")
	for _, dir := range dirs {
		if dir != "" {
			signs = append(signs, filepath.Join(dir, "libnvidia-ml.so.1"))
		}
	}
	for _, path := range signs {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}
