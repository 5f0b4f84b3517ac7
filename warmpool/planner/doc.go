// Package planner says which backend should be at which tier, and why, for a whole fleet: Make is one pure function of what a policy expects,
// what probes have read, the rules of each model, and what memory and waiting cost. It moves nothing and remembers nothing; keepers are told the
// plan and do it, or refuse. The same function plans a live fleet and recorded traffic in virtual time.
package planner
