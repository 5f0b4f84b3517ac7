// Package meter shares the measured busy time of GPUs among the requests that were in flight. It computes; it measures nothing and knows no clock.
//
// What it promises: the shares of a window and what is left of it are whole nanoseconds and add up to what was measured, always. How near a share is to
// the truth, docs/gpu-time.md says.
package meter
