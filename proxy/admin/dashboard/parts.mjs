// Small parts of the page. What comes from the fleet becomes text, never markup.

// el makes an element: attributes, then children, which are elements or text.
export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue
    if (key === 'on') for (const [type, f] of Object.entries(value)) e.addEventListener(type, f)
    else e.setAttribute(key, value === true ? '' : value)
  }
  e.append(...children.filter((c) => c !== null && c !== undefined))
  return e
}

// glyphs stand beside the names of states, so that colour is never all that tells them apart.
const glyphs = { ready: '●', waking: '◐', draining: '◒', asleep: '☾', stopped: '○', failed: '✕' }

export const stateOf = (state) => el('span', { class: `state ${state}` }, el('span', { 'aria-hidden': 'true' }, glyphs[state] ?? '?'), ` ${state}`)

export const byName = (a, b) => a.localeCompare(b, 'en', { numeric: true })

export function size(bytes) {
  if (bytes < 0) return '?'
  const gib = bytes / 2 ** 30
  return gib >= 10 || Number.isInteger(gib) ? `${Math.round(gib)} GiB` : gib >= 0.1 ? `${gib.toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`
}

export function took(ms) {
  if (ms < 0) return '–'
  if (ms < 1) return ms > 0 ? '<1 ms' : '0 ms'
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`
  return ms < 3600000 ? `${Math.round(ms / 60000)} min` : `${(ms / 3600000).toFixed(1)} h`
}

export function money(amount, currency) {
  const digits = Math.abs(amount) >= 100 ? 0 : Math.abs(amount) >= 0.1 || amount === 0 ? 2 : 4
  return `${amount.toFixed(digits)} ${currency}`
}

export const clock = (at) => new Date(at).toLocaleTimeString('en-GB')

// until is how far off a time is, in words.
export function until(at, now) {
  const s = (new Date(at) - now) / 1000
  if (s < 0) return 'any moment'
  if (s < 90) return `in ${Math.round(s)} s`
  if (s < 5400) return `in ${Math.round(s / 60)} min`
  return s < 129600 ? `in ${Math.round(s / 3600)} h` : `in ${Math.round(s / 86400)} days`
}

// keep makes parent's children those of wanted, [key, sign, make], leaving alone what has not changed: focus and selection stay where they are.
export function keep(parent, wanted) {
  const known = new Map([...parent.children].map((c) => [c.dataset.key, c]))
  let at = parent.firstElementChild
  for (const [key, sign, make] of wanted) {
    let child = known.get(key)
    known.delete(key)
    if (!child || child.dataset.sign !== sign) {
      const fresh = make()
      fresh.dataset.key = key
      fresh.dataset.sign = sign
      if (child) {
        const focused = child.contains(document.activeElement) ? document.activeElement.dataset.verb : undefined
        if (at === child) at = fresh
        child.replaceWith(fresh)
        if (focused) fresh.querySelector(`[data-verb="${focused}"]`)?.focus()
      }
      child = fresh
    }
    if (child === at) at = at.nextElementSibling
    else parent.insertBefore(child, at)
  }
  for (const gone of known.values()) gone.remove()
}
