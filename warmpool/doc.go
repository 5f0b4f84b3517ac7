// Package warmpool owns the lives of backends. Its Keeper, one per node, is the only one that moves a backend between the
// tiers: it wakes what is asked for, makes room for it in GPU memory, and puts to sleep what the plan says.
//
// The life table is in life.go, the memory ledger in memory.go, the plan in plan.go; how a wake or a sleep is really
// done is a Launcher's, in the folder launch. Requests never pass through here.
package warmpool
