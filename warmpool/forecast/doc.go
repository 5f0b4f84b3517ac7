// Package forecast says how likely it is that an idle model is asked for in a coming minute. It learns online from when models became busy and idle,
// pools what it learns over all models, and says in words what a forecast rests on. It decides nothing: what a chance is worth is the policy's.
//
// # How
//
// For every idle model and minute the chance of an arrival, given none so far, is a logistic function of some fifty features: how long the model has
// been idle, how often it was in use over the last ten minutes to the last week, its use at the same time of the last seven days, its own idle times so
// far, the minute of the hour, and how much all models together are asked for. Five such functions share the work by idle age. They are fitted anew by Refit, by
// Newton's method with a ridge, to the history itself: minutes are drawn from it and their features are computed by the very code that
// forecasts, so that nothing has to be kept but when each model was busy.
//
// Features that are counts or rates go in as logarithms; days count less the longer ago they are. Nothing is assumed of time zones: "the same
// time" is so many times 24 hours ago.
//
// Until enough is learned, and wherever the learned functions did worse of late than to keep a model for as long as its next load is worth, a forecast
// stands for just that: its chance is 1/(idle minutes + 1), by which a policy that keeps what is worth it keeps for a fixed time.
package forecast
