// The stream of the fleet. EventSource cannot send a token, so it is read with fetch.

const silence = 40000 // ms without a byte after which the connection is taken for dead: a heartbeat comes every 15 s

export const token = () => sessionStorage.getItem('pilotlight-token') ?? ''
export const headers = () => (token() ? { Authorization: `Bearer ${token()}` } : {})

const pause = (ms) => new Promise((done) => setTimeout(done, ms))

// follow calls hear(message) for ever, say('live' | 'waiting', why) when the connection comes and goes, and locked() when a token is needed; it resolves with one.
export async function follow(hear, say, locked) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 15000)) {
    const gone = new AbortController()
    let timer
    const alive = () => {
      clearTimeout(timer)
      timer = setTimeout(() => gone.abort(), silence)
    }
    try {
      alive()
      const answer = await fetch('/api/events', { headers: headers(), signal: gone.signal, cache: 'no-store' })
      if (answer.status === 401) {
        await locked(token() !== '')
        wait = 250
        continue
      }
      if (!answer.ok) throw new Error((await answer.json()).error)
      say('live')
      wait = 500
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
      let rest = ''
      for (;;) {
        const { done, value } = await reader.read()
        if (done) break
        alive()
        const events = (rest + value).split('\n\n')
        rest = events.pop()
        for (const event of events) {
          const data = event.split('\n').find((line) => line.startsWith('data: '))
          if (data) hear(JSON.parse(data.slice(6)))
        }
      }
      say('waiting', 'the connection ended')
    } catch (err) {
      say('waiting', gone.signal.aborted ? 'nothing is heard' : err instanceof TypeError ? 'pilotlight does not answer' : err.message)
    } finally {
      clearTimeout(timer)
    }
    await pause(wait)
  }
}

// order tells the admin port to do something, and throws what it says against it.
export async function order(verb, model, query = '') {
  const answer = await fetch(`/api/${verb}/${encodeURIComponent(model)}${query}`, { method: 'POST', headers: headers() })
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ error: `status ${answer.status}` }))
    throw new Error(said.error)
  }
}
