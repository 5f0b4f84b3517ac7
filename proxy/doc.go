// Package proxy is the edge: it accepts clients, reads what they ask for, has the router lend each request a slot of a
// backend, passes the request on and the answer back as it comes, and keeps one record of every request, the visit.
//
// It decides nothing about backends: which one, who waits and who is woken is the router's to say. How a request
// ends is one of the four outcomes of package router, and a client that leaves is noticed wherever its request is.
package proxy
