// The dashboard: what the stream says is kept here, bounded, and drawn at most once a frame.
import { byName, clock, el, keep, money, size, stateOf, took, until } from './parts.mjs'
import { follow, order } from './stream.mjs'
import { draw } from './timeline.mjs'

const $ = (id) => document.getElementById(id)
const maxChanges = 1000
const maxRequests = 2000 // on the timeline
const shownRequests = 100

const fleet = { models: new Map(), nodes: new Map(), plan: null, cost: null, recent: [], changes: [], skew: 0, heard: false }
const busy = new Map() // model: what was ordered and has not ended

const now = () => Date.now() + fleet.skew

function hear(m) {
  fleet.skew = new Date(m.at) - Date.now()
  if (m.snapshot) {
    for (const all of [fleet.models, fleet.nodes]) all.clear()
    fleet.changes = []
    fleet.recent = []
  }
  fleet.heard = true
  for (const [name, model] of Object.entries(m.models ?? {})) fleet.models.set(name, model)
  for (const name of m.gone ?? []) fleet.models.delete(name)
  for (const [name, node] of Object.entries(m.nodes ?? {})) fleet.nodes.set(name, node)
  for (const name of m.lost ?? []) fleet.nodes.delete(name)
  if (m.plan) fleet.plan = m.plan
  if (m.cost) fleet.cost = m.cost
  if (m.changes) fleet.changes = [...fleet.changes, ...m.changes].slice(-maxChanges)
  if (m.recent) {
    const fresh = new Set(m.recent.map((r) => r.id))
    fleet.recent = [...m.recent, ...fleet.recent.filter((r) => !fresh.has(r.id))].sort((a, b) => new Date(b.at) - new Date(a.at)).slice(0, maxRequests)
  }
  render()
}

let asked = false
function render() {
  if (asked) return
  asked = true
  requestAnimationFrame(() => {
    asked = false
    tiles()
    nodes()
    models()
    requests()
    timeline()
  })
}

function tiles() {
  const states = {}
  let waiting = 0
  for (const m of fleet.models.values()) {
    states[m.state] = (states[m.state] ?? 0) + 1
    waiting += m.line.waiting
  }
  const all = [['models', String(fleet.models.size), ['ready', 'waking', 'asleep', 'stopped', 'failed'].filter((s) => states[s]).map((s) => `${states[s]} ${s}`).join(', ') || 'none yet']]
  all.push(['in line', String(waiting), waiting ? 'wait for a slot' : 'nobody waits'])
  if (states.failed) all.push(['failed', String(states.failed), [...fleet.models.values()].filter((m) => m.state === 'failed').map((m) => m.name).sort(byName).slice(0, 3).join(', ')])
  const c = fleet.cost
  if (c) {
    const less = c.always_on > 0 ? Math.round(100 * (1 - c.paid / c.always_on)) : 0
    all.push(['paid today', money(c.paid, c.currency), `since ${clock(c.since)}; always on ${money(c.always_on, c.currency)}${c.always_on > 0 ? less >= 0 ? `, ${less}\u00a0% saved` : `, ${-less}\u00a0% more` : ''}`])
  }
  const p = fleet.plan
  if (p) {
    const ahead = p.used + p.late + p.wasted
    all.push(['policy', p.policy, (ahead ? `of ${ahead} wakes ahead ${p.used} were used` : 'no wakes ahead yet') + (p.dry_run ? '; a dry run' : p.acts ? '' : '; another edge plans')])
  }
  keep($('now'), all.map(([name, value, more]) => [name, value + more, () => el('div', { class: `tile ${name === 'failed' ? 'bad' : ''} ${value.length > 12 ? 'long' : ''}` }, el('dt', {}, name), el('dd', {}, el('strong', {}, value), el('small', {}, more)))]))
}

function nodes() {
  const all = [...fleet.nodes.values()].sort((a, b) => byName(a.name, b.name))
  const shown = all.slice(0, 40)
  const wanted = shown.map((n) => [n.name, JSON.stringify(n), () => node(n)])
  if (all.length > shown.length) wanted.push([' more', String(all.length), () => el('p', { class: 'empty' }, `${all.length - shown.length} more nodes are not shown; pilotlight nodes lists all.`)])
  if (fleet.heard && all.length === 0) wanted.push([' none', '', () => el('p', { class: 'empty card' }, 'No node is known yet.')])
  keep($('nodes'), wanted)
}

function node(n) {
  const gpus = n.gpus.map((g) => {
    const total = g.memory_bytes > 0 ? g.memory_bytes : g.free_bytes + g.held.reduce((sum, h) => sum + h.bytes, 0)
    const parts = g.held.map((h) => [h.bytes, h.model, h.state])
    if (g.others_bytes > 0) parts.push([g.others_bytes, 'others', 'others'])
    const used = parts.reduce((sum, [bytes]) => sum + bytes, 0)
    const strip = el('div', { class: 'strip', 'aria-hidden': 'true' })
    for (const [bytes, name, state] of parts) {
      const part = el('span', { class: `part ${state}`, title: `${name}, ${state}: ${size(bytes)}` }, bytes > total / 8 ? name : '')
      part.style.width = `${(100 * bytes) / Math.max(total, used, 1)}%`
      strip.append(part)
    }
    const who = parts.map(([bytes, name, state]) => `${name} ${size(bytes)}${state === 'ready' || state === 'others' ? '' : ` (${state})`}`).join(', ')
    const ill = g.health && g.health !== 'ok' && g.health !== 'well' && g.health !== 'unknown' && g.health !== 'healthy'
    return el('li', {},
      el('div', { class: 'gpu' }, el('b', {}, `GPU ${g.index}`), g.name ? el('span', { class: 'faint' }, g.name) : null,
        el('span', { class: 'right' }, g.busy >= 0 ? `${Math.round(100 * g.busy)} % busy, ` : '', `${size(Math.min(used, total))} of ${size(total)}`)),
      strip, el('p', { class: 'who' }, who || 'Nobody has memory here.', ill ? el('strong', { class: 'state failed' }, ` ${g.health}`) : null))
  })
  return el('article', { class: 'card node', 'aria-label': `Node ${n.name}` }, el('h3', {}, n.name),
    n.why ? el('p', { class: 'state failed' }, `✕ ${n.why}`) : null, gpus.length ? el('ul', { class: 'gpus' }, ...gpus) : el('p', { class: 'empty' }, 'Its GPUs are not counted: every backend fits.'))
}

const worst = { failed: 0, waking: 1, draining: 2, ready: 3, asleep: 4, stopped: 5 }

function chosen() {
  const text = $('filter').value.trim().toLowerCase(), state = $('state').value
  return [...fleet.models.values()]
    .filter((m) => !text || m.name.toLowerCase().includes(text) || (m.aliases ?? []).some((a) => a.toLowerCase().includes(text)))
    .filter((m) => !state || (state === 'line' ? m.line.waiting > 0 : state === 'pinned' ? m.pinned : m.state === state))
    .sort((a, b) => worst[a.state] - worst[b.state] || byName(a.name, b.name))
}

// models draws those rows that can be seen, and some around them: rows are all of one height.
function models() {
  const all = chosen()
  const box = $('window'), rows = $('rows')
  const high = parseFloat(getComputedStyle(box).getPropertyValue('--row')) || 52
  const first = Math.max(0, Math.min(Math.floor(box.scrollTop / high) - 4, all.length - 1))
  const last = Math.min(all.length, first + Math.ceil((box.clientHeight || 400) / high) + 10)
  box.firstElementChild.setAttribute('aria-rowcount', all.length + 1)
  const spacer = (key, n) => [key, String(n), () => {
    const row = el('tr', { class: 'spacer', 'aria-hidden': 'true' }, el('td', { colspan: 8 }))
    row.firstElementChild.style.height = `${n * high}px`
    return row
  }]
  const wanted = all.slice(first, last).map((m, i) => [`m ${m.name}`, JSON.stringify([m, busy.get(m.name), first + i, m.expected?.next ? until(m.expected.next, now()) : '']), () => row(m, first + i)])
  if (first > 0) wanted.unshift(spacer(' before', first))
  if (last < all.length) wanted.push(spacer(' after', all.length - last))
  if (all.length === 0 && fleet.heard) wanted.push([' none', String(fleet.models.size), () => el('tr', {}, el('td', { colspan: 8, class: 'empty' }, fleet.models.size ? 'No model is like that.' : 'No model is known yet. Put one into the configuration, or ask for one.'))])
  keep(rows, wanted)
  const count = all.length === fleet.models.size ? `${all.length} models` : `${all.length} of ${fleet.models.size} models`
  if ($('count').textContent !== count) $('count').textContent = count
}

const tiers = { gpu: 'GPU', host: 'host', disk: 'disk' }

function row(m, index) {
  const best = ['gpu', 'host', 'disk'].find((t) => m.backends.some((b) => b.tier === t))
  const slots = m.backends.reduce((sum, b) => sum + (b.state === 'ready' ? b.slots : 0), 0)
  const flying = m.backends.reduce((sum, b) => sum + b.in_flight, 0)
  const e = m.expected
  const failed = m.backends.find((b) => b.state === 'failed')
  const why = m.state === 'failed' && failed ? failed.reason : (e?.why || m.backends[0]?.reason || '')
  const next = e?.next ? until(e.next, now()) : '–'
  const pinned = m.pinned ? el('span', { class: 'pin', title: m.pinned.until ? `pinned until ${clock(m.pinned.until)}` : 'pinned' }, m.pinned.until ? `pinned until ${clock(m.pinned.until)}` : 'pinned') : null
  const button = (verb, text, off) => el('button', { type: 'button', 'data-verb': verb, disabled: busy.has(m.name) || off, 'aria-label': `${text} ${m.name}`, on: { click: () => ask(verb, m) } }, text)
  const chance = e && e.chance >= 0.005 ? ` (${Math.round(100 * e.chance)} % within a minute)` : ''
  return el('tr', { 'aria-rowindex': index + 2 },
    el('th', { scope: 'row', title: m.name }, el('span', { class: 'name' }, m.name), m.aliases?.length ? el('small', {}, m.aliases.join(', ')) : null),
    el('td', { 'data-label': 'State' }, stateOf(m.state), pinned, m.backends.length > 1 ? el('small', {}, `${m.backends.filter((b) => b.state === 'ready').length} of ${m.backends.length} ready`) : null),
    el('td', { 'data-label': 'Tier' }, best ? tiers[best] : '–'),
    el('td', { 'data-label': 'In flight' }, slots ? `${flying} of ${slots}` : String(flying)),
    el('td', { 'data-label': 'In line', class: m.line.waiting ? 'hot' : undefined }, String(m.line.waiting)),
    el('td', { 'data-label': 'Next expected', title: e?.next ? clock(e.next) + chance : undefined }, next),
    el('td', { 'data-label': 'Why', class: 'why', title: why }, el('span', {}, why)),
    el('td', { class: 'actions' }, busy.has(m.name) ? el('span', { class: 'faint' }, `${busy.get(m.name)} …`) : null,
      button('wake', 'Wake', m.backends.every((b) => b.state === 'ready')), button('sleep', 'Sleep', !m.backends.some((b) => b.state === 'ready')), m.pinned ? button('unpin', 'Unpin') : button('pin', 'Pin')))
}

function requests() {
  const who = (r) => r.tenant || '–'
  const wanted = fleet.recent.slice(0, shownRequests).map((r) => [r.id, JSON.stringify(r), () => el('tr', {},
    el('td', {}, clock(r.at)), el('td', { class: 'name', title: r.model }, r.model || '–'), el('td', { class: 'name', title: who(r) }, who(r)),
    el('td', { title: r.reason }, el('span', { class: `outcome ${r.outcome}` }, `${r.outcome === 'ok' ? '✓' : r.outcome === 'left' ? '↩' : '✕'} ${r.outcome}`), r.outcome === 'ok' ? null : el('span', { class: 'status' }, ` ${r.status || ''}`), r.cold ? el('span', { class: 'cold' }, 'cold') : null),
    el('td', { class: 'number' }, took(r.waited_ms)), el('td', { class: 'number' }, took(r.total_ms)), el('td', { class: 'number' }, took(r.gpu_ms)))])
  if (wanted.length === 0 && fleet.heard) wanted.push([' none', '', () => el('tr', {}, el('td', { colspan: 7, class: 'empty' }, 'Nobody has asked for anything yet.'))])
  keep($('recent'), wanted)
}

function timeline() {
  const lives = {}, names = {}
  for (const c of fleet.changes) {
    ;(lives[c.backend] ??= []).push({ at: +new Date(c.at), to: c.to })
    names[c.backend] = c.backend.startsWith(`${c.node}/`) ? c.backend.slice(c.node.length + 1) : c.backend
  }
  const drawn = fleet.recent.map((r) => ({ backend: r.backend, outcome: r.outcome, start: +new Date(r.at) + r.waited_ms, end: +new Date(r.at) + r.total_ms }))
  draw($('chart'), { lives, names, requests: drawn, span: Number($('span').value), now: now() })
  const latest = fleet.changes.filter((c) => c.from).slice(-30).reverse()
  keep($('changes'), latest.map((c) => [`${c.backend} ${c.at} ${c.to}`, '', () => el('li', {}, el('time', { datetime: c.at }, clock(c.at)), ` ${names[c.backend]} `, stateOf(c.to), c.why ? el('span', { class: 'faint' }, ` ${c.why}`) : null)]))
}

const words = {
  wake: ['Wake', (m) => `One more backend of ${m} wakes. Others may have to leave their GPUs for it.`, 'Wake it'],
  sleep: ['Sleep', (m) => `${m} finishes what it does and gives its GPUs back. Who asks for it next waits for a wake.`, 'Let it sleep'],
  pin: ['Pin', (m) => `${m} has a backend awake, and none that is awake sleeps, whatever is planned. The GPU memory is held, and paid for, as long.`, 'Pin it'],
  unpin: ['Unpin', (m) => `${m} sleeps again when it is planned.`, 'Unpin it'],
}

// ask has the person confirm, then does it.
function ask(verb, m) {
  const [title, text, yes] = words[verb]
  const dialog = $('ask'), opener = document.activeElement
  $('ask-title').textContent = `${title} ${m.name}?`
  $('ask-text').textContent = text(m.name)
  $('ask-yes').textContent = yes
  $('ask-for').hidden = verb !== 'pin'
  $('ask-time').value = ''
  dialog.returnValue = 'no'
  dialog.onclose = () => {
    opener?.focus()
    if (dialog.returnValue === 'yes') act(verb, m.name, verb === 'pin' && $('ask-time').value ? `?for=${$('ask-time').value}` : '')
  }
  dialog.showModal()
}

async function act(verb, model, query) {
  busy.set(model, verb)
  say(`${words[verb][0]} ${model}: asked.`)
  render()
  try {
    await order(verb, model, query)
    say(`${words[verb][0]} ${model}: done.`)
  } catch (err) {
    say(`${words[verb][0]} ${model}: ${err.message}`, true)
  } finally {
    busy.delete(model)
    render()
  }
}

let quiet
function say(text, bad = false) {
  $('said').textContent = text
  $('said').classList.toggle('bad', bad)
  $('said').classList.add('shown')
  clearTimeout(quiet)
  quiet = setTimeout(() => $('said').classList.remove('shown'), bad ? 20000 : 6000)
}

// unlock asks for the token.
function unlock(wrong) {
  const door = $('door')
  if (wrong) $('door-text').textContent = 'That is not the token. It is in the file that admin_token_file names.'
  $('door-token').value = ''
  door.oncancel = (e) => e.preventDefault()
  door.showModal()
  return new Promise((done) => {
    $('door-form').onsubmit = () => {
      sessionStorage.setItem('pilotlight-token', $('door-token').value.trim())
      done()
    }
  })
}

for (const id of ['filter', 'state', 'span']) $(id).addEventListener('input', () => { if (id !== 'span') $('window').scrollTop = 0; render() })
$('window').addEventListener('scroll', render, { passive: true })
addEventListener('resize', render)
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', render)
setInterval(() => { if (fleet.heard && !document.hidden) render() }, 1000) // time passes on the timeline

follow(hear, (state, why) => {
  $('link').dataset.link = state
  $('link').textContent = state === 'live' ? 'live' : `not connected: ${why}`
}, unlock)
