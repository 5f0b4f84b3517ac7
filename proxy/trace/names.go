package trace

import "go.opentelemetry.io/otel/attribute"

// Our own attributes. Nothing in the conventions is for these: not GPU time of a request, above all.
const (
	keyRequest  = attribute.Key("pilotlight.request.id") // as in the log
	keyOutcome  = attribute.Key("pilotlight.outcome")    // ok, refused, left, broken
	keyCode     = attribute.Key("pilotlight.code")       // of a refusal
	keyTenant   = attribute.Key("pilotlight.tenant")
	keyBackend  = attribute.Key("pilotlight.backend")
	keyNode     = attribute.Key("pilotlight.node")
	keyOverflow = attribute.Key("pilotlight.overflow") // it was answered elsewhere
	keyWhy      = attribute.Key("pilotlight.wait.reason")

	keyFrom    = attribute.Key("pilotlight.wake.from") // the tier: host, disk
	keyEvicted = attribute.Key("pilotlight.wake.evicted")

	keyTime     = attribute.Key("pilotlight.gpu.time")     // seconds, summed over GPUs
	keyEnergy   = attribute.Key("pilotlight.gpu.energy")   // joules
	keyMethod   = attribute.Key("pilotlight.gpu.method")   // how the time is known: nvml, engine, wallclock
	keyComplete = attribute.Key("pilotlight.gpu.complete") // false: more may have been measured than had come when it was told
	keyCost     = attribute.Key("pilotlight.gpu.cost")     // of the time, in the currency
	keyCurrency = attribute.Key("pilotlight.gpu.currency")
	keyIndices  = attribute.Key("pilotlight.gpu.indices") // on the node, as the driver counts
)
