// Package ledger writes down who used how much: for each minute, tenant, model and backend the requests, their tokens, GPU time, energy and cold
// starts, and what belongs to no request. It hears of requests from the edge, adds up in memory, and once a second one goroutine adds that to
// an SQLite database, whose WAL a killed process leaves whole: what is lost is at most the last second.
//
// It keeps whole nanoseconds of GPU time beside the price of a GPU's hour then, never money: so sums are exact, and a new price does not
// change what was. Several edges have a file each; whoever asks adds up their answers (Merge).
package ledger
