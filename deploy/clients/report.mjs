// What a chat script prints: one JSON line when the first token is there, one at the end. The end tells how the chat went:
// "ok" with the whole text, "aborted" by us, or "error" with what the client library threw.
import { parseArgs } from 'node:util'

// chat runs stream(options, signal), an async generator of { text, finish }, and reports what came out of it.
export async function chat(stream) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      prompt: { type: 'string', default: 'hello' },
      tokens: { type: 'string', default: '32' }, // the longest answer; 0: no limit
      'abort-after': { type: 'string', default: '0' }, // chunks; 0: never
    },
  })
  if (positionals.length !== 2) {
    console.error('usage: node SCRIPT BASE MODEL [--prompt TEXT] [--tokens N] [--abort-after CHUNKS]')
    process.exit(2)
  }
  const [base, model] = positionals
  const abortAfter = Number(values['abort-after'])
  const options = { base, model, prompt: values.prompt, tokens: Number(values.tokens) || undefined }
  const seen = { chunks: 0, finish: '', text: '' }
  const start = performance.now()
  const say = (what) => console.log(JSON.stringify({ ...what, ms: Math.round(performance.now() - start) }))

  try {
    const left = new AbortController()
    for await (const { text, finish } of stream(options, left.signal)) {
      if (seen.chunks++ === 0) say({ event: 'first' })
      seen.text += text
      seen.finish = finish || seen.finish
      if (seen.chunks === abortAfter) left.abort()
      if (left.signal.aborted) return say({ event: 'aborted', ...seen })
    }
    say({ event: 'ok', ...seen })
  } catch (err) {
    const status = err.status ?? err.status_code ?? 0 // openai's and ollama's word for it
    say({ event: 'error', ...seen, class: err.constructor.name, status, message: err.message })
  }
}
