// Streams a chat completion with OpenAI's client library: node openai-chat.mjs http://127.0.0.1:8080 MODEL
import OpenAI from 'openai'
import { chat } from './report.mjs'

await chat(async function* ({ base, model, prompt, tokens }, signal) {
  const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'unused', maxRetries: 0 })
  const chunks = await client.chat.completions.create(
    { model, messages: [{ role: 'user', content: prompt }], max_tokens: tokens, temperature: 0, stream: true },
    { signal },
  )
  for await (const { choices: [choice] } of chunks) {
    yield { text: choice?.delta.content ?? '', finish: choice?.finish_reason }
  }
})
