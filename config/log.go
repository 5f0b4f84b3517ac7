package config

// Log is what the log says. It goes to standard error, as text for people at a terminal, else as JSON.
type Log struct {
	// Sample is the part of the requests that went well which have a line: from 0 to 1. Those that were refused, broke off, left, waited for a wake or
	// overflowed always have one. How many were left out stands in the next line as left_out, and in pilotlight_log_lines_left_out_total.
	// `pilotlight simulate --trace` wants a log that has all. Default 1.
	Sample Ratio `yaml:"sample"`
}
