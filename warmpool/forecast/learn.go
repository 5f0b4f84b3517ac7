package forecast

import "math"

// Parameters of one fit. The last is a bias for all ages.
const (
	dims       = dense + ages + 1
	bias       = dims - 1
	ridge      = 3.0  // of all but the bias, on features of unit variance
	mostRounds = 12   //
	curvature  = 8000 // rows that the Hessian is taken from
	converged  = 2e-5 // share of the loss that a round must promise to gain
)

// fit is an expert while it learns: rows are standardised in place.
type fit struct {
	rows  []sample
	mean  [dense]float64
	scale [dense]float64 // 1 / standard deviation
	w     [dims]float64
}

// learn fits the expert to rows, which it changes. It begins where it was before. Too few rows leave it as it was.
func (e *expert) learn(rows []sample) {
	came, total := 0.0, 0.0
	for i := range rows {
		total += rows[i].weight
		if rows[i].came {
			came += rows[i].weight
		}
	}
	if len(rows) < leastRows {
		return
	}
	f := &fit{rows: rows}
	f.standardise(total)
	f.w[bias] = math.Log((came + 1) / (total - came + 1))
	if e.trained {
		f.resume(e)
	}
	f.newton(e.trained)
	f.store(e)
}

func (f *fit) standardise(total float64) {
	var squares [dense]float64
	for i := range f.rows {
		w := f.rows[i].weight / total
		for k, x := range f.rows[i].x {
			f.mean[k] += w * float64(x)
			squares[k] += w * float64(x) * float64(x)
		}
	}
	for k := range dense {
		f.scale[k] = 1 / math.Sqrt(max(1e-6, squares[k]-f.mean[k]*f.mean[k]))
	}
	for i := range f.rows {
		x := &f.rows[i].x
		for k := range x {
			x[k] = float32((float64(x[k]) - f.mean[k]) * f.scale[k])
		}
	}
}

// resume begins with what the expert knew, in terms of the new means and scales.
func (f *fit) resume(e *expert) {
	f.w[bias] = 0
	shift := 0.0
	for k := range dense {
		f.w[k] = float64(e.weights[k]) / f.scale[k]
		shift += float64(e.weights[k]) * f.mean[k]
	}
	for b := range ages {
		f.w[bias] += (float64(e.bias[b]) + shift) / ages
	}
	for b := range ages {
		f.w[dense+b] = float64(e.bias[b]) + shift - f.w[bias]
	}
}

// store gives the expert its weights, in terms of the features as they are.
func (f *fit) store(e *expert) {
	e.trained = true
	shift := 0.0
	for k := range dense {
		e.weights[k] = float32(f.w[k] * f.scale[k])
		e.means[k] = float32(f.mean[k])
		shift += f.w[k] * f.scale[k] * f.mean[k]
	}
	for b := range ages {
		e.bias[b] = float32(f.w[dense+b] + f.w[bias] - shift)
	}
}

// newton lowers the loss until a round gains little. A part of the rows gives the Hessian, all of them the gradient; where a fit begins near
// its end one Hessian does for all rounds.
func (f *fit) newton(near bool) {
	loss, slope := f.loss(&f.w)
	var h []float64
	for round := range mostRounds {
		if h == nil || !near && round < 4 {
			h = f.hessian(round)
		}
		step, gain := slope, 0.0
		solve(h, step[:])
		for k := range step {
			gain += step[k] * slope[k] / 2
		}
		if gain < converged*loss && (near || round > 3) {
			return
		}
		for part := 1.0; part > 1e-2; part /= 2 {
			w := f.w
			for k := range w {
				w[k] -= part * step[k]
			}
			if is, at := f.loss(&w); is <= loss {
				f.w, loss, slope = w, is, at
				break
			}
			h = nil // too far: it is curved otherwise here
		}
	}
}

// loss is minus the log-likelihood with the ridge, and its gradient.
func (f *fit) loss(w *[dims]float64) (loss float64, slope [dims]float64) {
	var w32 [dense]float32
	for k := range w32 {
		w32[k] = float32(w[k])
	}
	for i := range f.rows {
		r := &f.rows[i]
		p := 1 / (1 + math.Exp(-f.score(r, w, &w32)))
		v := r.weight * p
		if r.came {
			v -= r.weight
			loss -= r.weight * math.Log(max(p, 1e-12))
		} else {
			loss -= r.weight * math.Log(max(1-p, 1e-12))
		}
		for k, x := range r.x {
			slope[k] += v * float64(x)
		}
		slope[dense+r.bin] += v
		slope[bias] += v
	}
	for k := range dims {
		loss += penalty(k) / 2 * w[k] * w[k]
		slope[k] += penalty(k) * w[k]
	}
	return loss, slope
}

func (f *fit) score(r *sample, w *[dims]float64, w32 *[dense]float32) float64 {
	var a, b, c, d float32
	for k := 0; k < dense; k += 4 {
		a += w32[k] * r.x[k]
		b += w32[k+1] * r.x[k+1]
		c += w32[k+2] * r.x[k+2]
		d += w32[k+3] * r.x[k+3]
	}
	return w[dense+r.bin] + w[bias] + float64(a+b+c+d)
}

func penalty(k int) float64 {
	if k == bias {
		return 1e-3
	}
	return ridge
}

// hessian is that of the loss, of a part of the rows that differs by round, as its Cholesky factor.
func (f *fit) hessian(round int) []float64 {
	h := make([]float64, dims*dims)
	every := max(1, len(f.rows)/curvature)
	var w32 [dense]float32
	for k := range w32 {
		w32[k] = float32(f.w[k])
	}
	var x [dense]float64
	for i := round % every; i < len(f.rows); i += every {
		r := &f.rows[i]
		p := 1 / (1 + math.Exp(-f.score(r, &f.w, &w32)))
		v := r.weight * p * (1 - p) * float64(every)
		for k := range x {
			x[k] = float64(r.x[k])
		}
		bin := dense + r.bin
		for k := range x {
			vx := v * x[k]
			line := h[k*dims : k*dims+k+1]
			for l, xl := range x[:len(line)] {
				line[l] += vx * xl
			}
			h[bin*dims+k] += vx
			h[bias*dims+k] += vx
		}
		h[bin*dims+bin] += v
		h[bias*dims+bin] += v
		h[bias*dims+bias] += v
	}
	for k := range dims {
		h[k*dims+k] += penalty(k)
	}
	factor(h)
	return h
}

// factor replaces the lower triangle of a positive definite matrix by its Cholesky factor.
func factor(a []float64) {
	for i := range dims {
		for j := 0; j <= i; j++ {
			s := a[i*dims+j]
			for k := range j {
				s -= a[i*dims+k] * a[j*dims+k]
			}
			if i == j {
				a[i*dims+i] = math.Sqrt(max(s, 1e-9))
			} else {
				a[i*dims+j] = s / a[j*dims+j]
			}
		}
	}
}

// solve replaces b by x of L·Lᵀ·x = b.
func solve(l, b []float64) {
	for i := range dims {
		for k := range i {
			b[i] -= l[i*dims+k] * b[k]
		}
		b[i] /= l[i*dims+i]
	}
	for i := dims - 1; i >= 0; i-- {
		for k := i + 1; k < dims; k++ {
			b[i] -= l[k*dims+i] * b[k]
		}
		b[i] /= l[i*dims+i]
	}
}
