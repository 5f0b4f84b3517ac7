// Package simulate replays recorded demand against policies of the warm pool in virtual time, with the policies' own code, and counts what each
// would have cost: cold starts, and memory that was held for nothing. It reads no files: whoever calls it hands over a Demand.
//
// How it counts, so that figures compare with others':
//
//   - A model has one instance. It is busy from an arrival until the recorded end of what is in flight; the end stands where a load took longer,
//     so that gaps are the same whatever the policy. An idle gap runs from the last end to the next arrival.
//   - A request is cold when it arrives outside a warm window, or while a load still runs. A row of more than one request is as many requests that
//     find the model as the row does; its cold start is one.
//   - Waste is the time in which a model is warm and idle, and the time of loads. Both are those of a gap, and count with the arrival that ends it: what
//     follows a model's last arrival is in nobody's figures. A load that has begun is paid for in full.
//   - Policies learn from the beginning and are measured from later on. They see the past only. Arrivals of the same time come in the order
//     of the recording, and before whatever a policy wants at that time.
//   - A model that was never asked for does not exist: its first request is cold, whatever the policy.
package simulate
