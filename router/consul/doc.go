// Package consul is all that speaks to Consul: the discovery of agents, edges and backends, their registration, live policy in KV,
// locks, and the history that lasts over restarts.
//
// Nothing here is on the way of a request. When Consul does not answer, what it last said stands: a failed answer never removes
// anything.
//
// One rule keeps the cost of discovery at that of the changes. A connection per service would be refused at 200 of them (Consul's
// http_max_conns_per_client), and one query over all checks brings the whole fleet at each change. So whoever registers backends touches a
// key for each service it changes (changed/SERVICE), each edge waits on these keys with one query, and asks only for the services whose
// key moved. Services that others register have no such key; those have a query each, a bounded number at a time.
package consul
