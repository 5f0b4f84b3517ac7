// The timeline: a row for each backend, the busiest of late first, with its states as bars and requests as strokes over them.

const most = 12 // rows
const high = 26 // px of a row

// draw paints what is known of the last span seconds. Lives are {backend: [{at, to}]}, in the order of time, with at in ms.
export function draw(canvas, { lives, requests, span, now, names }) {
  const style = getComputedStyle(canvas)
  const colour = (name) => style.getPropertyValue(`--${name}`).trim()
  const from = now - span * 1000
  const rows = pick(lives, requests, from)
  const width = canvas.clientWidth, height = Math.max(rows.length, 3) * high + 22
  const scale = devicePixelRatio || 1
  canvas.style.height = `${height}px`
  canvas.width = width * scale
  canvas.height = height * scale
  const c = canvas.getContext('2d')
  c.scale(scale, scale)
  c.font = `12px ${style.fontFamily}`
  c.textBaseline = 'middle'
  const left = width < 480 ? 92 : 150
  const x = (at) => left + ((Math.max(at, from) - from) / (now - from)) * (width - left - 4)
  axis(c, { x, from, now, span, height, colour, left, width })
  if (rows.length === 0) {
    c.fillStyle = colour('faint')
    c.fillText('Nothing has happened in this time.', left + 8, height / 2 - 8)
  }
  rows.forEach((id, i) => {
    const y = i * high + high / 2
    c.fillStyle = colour('text')
    c.fillText(fit(c, names[id] ?? id, left - 10), 2, y)
    const life = lives[id] ?? []
    life.forEach(({ at, to }, j) => {
      const end = life[j + 1]?.at ?? now
      if (end > from) bar(c, to, x(at), x(end), y, colour)
    })
    for (const r of requests) {
      if (r.backend === id && r.end > from) stroke(c, r, x(r.start), x(r.end), y, colour)
    }
  })
}

function pick(lives, requests, from) {
  const last = {}
  for (const [id, life] of Object.entries(lives)) {
    const at = life.at(-1)
    if ((at.at > from && (life.length > 1 || at.to !== 'stopped')) || at.to === 'ready' || at.to === 'waking') last[id] = Math.max(at.at, from)
  }
  for (const r of requests) if (r.end > from && lives[r.backend]) last[r.backend] = Math.max(last[r.backend] ?? 0, r.end)
  return Object.keys(last).sort((a, b) => last[b] - last[a]).slice(0, most).sort()
}

function axis(c, { x, from, now, span, height, colour, left, width }) {
  const step = (span / (width < 480 ? 3 : 5)) * 1000
  c.fillStyle = colour('faint')
  c.strokeStyle = colour('line')
  c.textAlign = 'center'
  for (let at = Math.ceil(from / step) * step; at < now; at += step) {
    c.beginPath()
    c.moveTo(x(at), 0)
    c.lineTo(x(at), height - 20)
    c.stroke()
    if (x(at) > left + 16 && x(at) < width - 24) c.fillText(new Date(at).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' }), x(at), height - 9)
  }
  c.textAlign = 'left'
}

function bar(c, state, from, to, y, colour) {
  const w = Math.max(to - from, 1.5)
  c.fillStyle = colour(state)
  switch (state) {
    case 'stopped':
      return
    case 'asleep':
      c.fillRect(from, y + 5, w, 2)
      return
    case 'ready':
      c.fillRect(from, y - 3, w, 11)
      return
    case 'failed':
      c.fillRect(from, y + 3, w, 4)
      c.fillText('✕', from + 1, y - 3)
      return
  }
  // On its way: hatched, so that it is told from ready without its colour.
  c.save()
  c.beginPath()
  c.rect(from, y - 3, w, 11)
  c.clip()
  c.globalAlpha = 0.3
  c.fillRect(from, y - 3, w, 11)
  c.globalAlpha = 1
  c.strokeStyle = colour(state)
  c.lineWidth = 2
  const lean = state === 'waking' ? 8 : -8
  for (let at = Math.floor((from - 12) / 6) * 6; at < to + 12; at += 6) {
    c.beginPath()
    c.moveTo(at, y + 8)
    c.lineTo(at + lean, y - 3)
    c.stroke()
  }
  c.restore()
}

function stroke(c, r, from, to, y, colour) {
  c.fillStyle = colour(r.outcome === 'ok' ? 'request' : 'failed')
  c.fillRect(from, y - 8, Math.max(to - from, 2), r.outcome === 'ok' ? 3 : 5)
}

function fit(c, text, width) {
  if (c.measureText(text).width <= width) return text
  let n = text.length
  while (n > 1 && c.measureText(text.slice(0, n) + '…').width > width) n--
  return text.slice(0, n) + '…'
}
