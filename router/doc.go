// Package router holds the edge's picture of the fleet and decides on it: which backend a request gets (Pick), which one to
// wake where none is ready (Place), and who is next (the line).
//
// What was observed is an immutable Fleet behind an atomic pointer. What is promised, slots and places in line, is under one
// mutex per model. The router never moves a backend: it asks its Waker and is told, through Observe, what became of it.
package router
