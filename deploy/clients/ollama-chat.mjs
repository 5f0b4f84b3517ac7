// Streams a chat on /api/chat with Ollama's client library: node ollama-chat.mjs http://127.0.0.1:8080 MODEL
import { Ollama } from 'ollama'
import { chat } from './report.mjs'

await chat(async function* ({ base, model, prompt, tokens }, signal) {
  const client = new Ollama({ host: base })
  const chunks = await client.chat({
    model,
    messages: [{ role: 'user', content: prompt }],
    options: { num_predict: tokens, temperature: 0 },
    stream: true,
  })
  signal.addEventListener('abort', () => chunks.abort())
  for await (const { message, done_reason } of chunks) {
    yield { text: message.content, finish: done_reason }
  }
})
