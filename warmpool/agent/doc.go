// Package agent is the link between edges and agents: one stream of messages per pair, over gRPC.
//
// Hub is the agent's end of all its links. To the keeper it is the edges: it tells them what the node's backends are, divides their
// slots among them, and knows when nobody uses a backend any more, an edge that was cut off included. Link is an
// edge's end of one. To the router it is the owner of that node's backends.
//
// Both sides send what is so, whole, and never what has changed: the latest message makes up for all before it. What must not be
// lost is therefore bounded by what there is to say, however slow the other side reads.
package agent
