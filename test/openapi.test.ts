/** The description of the API and the client for programs, held against the proxy: what they say is what it does. */
import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { Validator } from '@seriousme/openapi-schema-validator'
import t, { type Test } from 'tap'
import { codes, refusals } from '../src/errors.ts'
import { createClient } from '../src/scrapellm/client.ts'
import { root } from './support/process.ts'
import { aProxy, type Answer, type Proxy } from './support/proxy.ts'

const TOKEN = 'team-token-0123456789'
const withTokens = `clients: { team: { token: ${TOKEN}, credits: { perDay: 9 } } }\n`

interface Operation {
  readonly operationId: string
  readonly parameters: readonly {
    name: string
    in: string
    required?: boolean
    schema: { examples?: unknown[]; default?: unknown }
  }[]
  readonly responses: Readonly<Record<string, { readonly $ref?: string }>>
}

interface Described {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Record<string, object>; readonly responses: Record<string, unknown> }
}

const described = JSON.parse(readFileSync(`${root}/docs/openapi.json`, 'utf8')) as Described

/** Says what is wrong with an answer by the schema that the description names for its status and type. */
function checker(): (operation: Operation, answer: Answer) => string {
  const ajv = new Ajv2020({ strict: false, validateFormats: false })
  ajv.addSchema({ $id: 'api', ...described })
  return ({ responses }, { status, headers, json }) => {
    const named = responses[status] ?? responses['default']
    const name = named?.$ref?.split('/').at(-1)
    const response = (name === undefined ? named : described.components.responses[name]) as {
      content?: Record<string, { schema: { $ref: string } }>
      headers: Record<string, unknown>
    }
    const missing = ['x-request-id', 'cache-status', 'x-proxy-attempts', 'x-proxy-credits'].filter(
      (one) => !(one in headers),
    )
    if (missing.length > 0) return `${missing.join(', ')} missing`
    if (!response.content) return ''
    const media = response.content[String(headers['content-type']).split(';')[0] ?? '']
    if (!media) return `${status} ${String(headers['content-type'])} is not described`
    const isRefusal = headers['content-type'] === 'application/problem+json'
    const schema = isRefusal ? '#/components/schemas/Refusal' : media.schema.$ref
    const isValid = ajv.validate({ $ref: `api${schema}` }, json)
    return isValid ? '' : ajv.errorsText()
  }
}

/** Every example, and every default, of the query. */
function targetsOf(path: string, { parameters }: Operation): readonly string[] {
  const inQuery = parameters.filter((one) => one.in === 'query')
  const full = new URLSearchParams()
  for (const { name, schema } of inQuery) full.set(name, String(schema.examples?.[0] ?? schema.default))
  const least = new URLSearchParams()
  for (const { name, required, schema } of inQuery) if (required) least.set(name, String(schema.examples?.[0]))
  return [least, full].map((query) => (inQuery.length > 0 ? `${path}?${query.toString()}` : path))
}

void t.test('the description is valid OpenAPI 3.1', async (t) => {
  const { valid, errors } = await new Validator().validate(structuredClone(described) as never)
  t.ok(valid, JSON.stringify(errors))
  t.equal((described.components.schemas['Code'] as { enum: string[] }).enum.length, codes.length)
  for (const code of codes) {
    for (const status of refusals[code].statuses)
      t.match(JSON.stringify(described.components.responses[`Error${status}`]), code)
  }
})

void t.test('anybody may read it on the proxy port, without a token and at no cost', async (t) => {
  const { ask } = await aProxy(t, withTokens)
  const answer = await ask('/openapi.json')
  t.match(answer, { status: 200, headers: { 'content-type': 'application/json', 'x-proxy-code': undefined } })
  const { info, ...served } = answer.json
  const { info: committed, ...rest } = described as unknown as Record<string, object>
  t.strictSame(served, rest)
  t.match(info, { ...committed, version: String })
  t.match(await ask('/openapi.json', { method: 'HEAD' }), { status: 200, text: '' })
  t.match(await ask('/openapi.json', { method: 'POST' }), { status: 401 })
  t.match(await ask('/openapi.jsonx'), { status: 401 })
})

void t.test('every example is sent, and every answer is as described', async (t) => {
  const { ask } = await aProxy(t)
  const check = checker()
  let promised = ''
  for (const [path, item] of Object.entries(described.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const targets = targetsOf(path.replace('{job_id}', promised), operation)
      for (const target of targets) {
        const answer = await ask(target, { method: method.toUpperCase() })
        t.equal(answer.status, method === 'post' ? 202 : 200, `${method} ${target}`)
        t.equal(check(operation, answer), '', operation.operationId)
        if (method === 'post') promised = String(answer.json['job_id'])
      }
    }
  }
})

void t.test('failures are as described, those of ScrapeLLM and those of the proxy', async (t) => {
  const { ask, sim } = await aProxy(t, 'breaker: { hold: 0s }')
  const check = checker()
  const operation = described.paths['/scrapers/chatgpt']?.['get'] as Operation
  const steps = ['400', '422-list', '404', '408', '501', '429-rate', '500-empty', '503', 'not-json'] as const
  for (const step of steps) {
    sim.script({ prompt: step }, [{ kind: step, times: 'forever' }])
    const answer = await ask(step)
    t.ok(answer.status >= 400)
    t.equal(check(operation, answer), '', `${step} ${answer.text}`)
  }
  for (const [name, response] of Object.entries(described.components.responses)) {
    const media = Object.values((response as { content: Record<string, { schema: unknown }> }).content)
    t.strictSame(media[0], media[1], `${name}: a generator that knows one type for each status reads both`)
  }
  for (const target of ['/scrapers/chatgpt?prompt=a&prompt=b', '/scrapers/nobody?prompt=a', '/nowhere']) {
    t.equal(check(operation, await ask(target)), '', target)
  }
})

function clientOf(t: Test, proxy: Proxy, token?: string) {
  t.teardown(() => proxy.sim.release())
  return createClient({ baseUrl: `${proxy.url}/`, ...(token === undefined ? {} : { token }) })
}

void t.test('the client: answers with what they cost and where they came from', async (t) => {
  const proxy = await aProxy(t, withTokens)
  const client = clientOf(t, proxy, TOKEN)
  const first = await client.ask('gemini', { prompt: 'a', country: 'DE', timeout: 60 }, { requestId: 'mine' })
  t.match(first, {
    kind: 'answer',
    status: 200,
    requestId: 'mine',
    credits: 3,
    attempts: 1,
    isCached: false,
    client: 'team',
  })
  if (first.kind !== 'answer') return
  t.equal(first.body.llm_model, 'gemini-2.0-flash', 'typed by scraper')
  t.match(proxy.sim.requests[0], { prompt: 'a', country: 'DE' })
  t.match(await client.ask('gemini', { prompt: 'a', country: 'DE' }), { kind: 'answer', isCached: true, credits: 0 })
  t.match(await client.ask('gemini', { prompt: 'a', country: 'DE', sample: 2 }), { kind: 'answer', isCached: false })
})

void t.test('the client: refusals and errors are told apart', async (t) => {
  const proxy = await aProxy(t, withTokens)
  const { sim } = proxy
  t.match(await clientOf(t, proxy).ask('grok', { prompt: 'a' }), {
    kind: 'refusal',
    code: 'CLIENT_UNKNOWN',
    status: 401,
  })
  const client = clientOf(t, proxy, TOKEN)
  sim.script({ prompt: 'wrong' }, ['422-list'])
  t.match(await client.ask('grok', { prompt: 'wrong' }), { kind: 'error', status: 422, detail: /msg/, credits: 0 })
  sim.script({ prompt: 'cut' }, ['reset-after-charge', 'reset-after-charge'])
  t.match(await client.ask('grok', { prompt: 'cut' }), {
    kind: 'refusal',
    code: 'UPSTREAM_UNREACHABLE',
    credits: 6,
    attempts: 2,
  })
  await client.ask('grok', { prompt: 'the last three' })
  const spent = await client.ask('grok', { prompt: 'one too many' })
  t.match(spent, { kind: 'refusal', code: 'BUDGET_EXHAUSTED', status: 429, retryAfter: Number })
})

void t.test('the client: promises and jobs', async (t) => {
  const proxy = await aProxy(t)
  const { sim } = proxy
  const client = clientOf(t, proxy)
  sim.script({ prompt: 'later' }, ['hold'])
  const promise = await client.askLater('copilot', { prompt: 'later' })
  t.match(promise, { kind: 'promise', status: 202, credits: 3 })
  if (promise.kind !== 'promise') return
  t.match(await client.job(promise.jobId), { kind: 'job', job: { status: 'pending' } })
  await sim.received(1)
  sim.release()
  await sim.idle()
  t.match(await client.job(promise.jobId), { job: { status: 'done', result: { prompt: 'later' } } })
  t.match(await client.askLater('copilot', { prompt: 'later' }, { waitSeconds: 5 }), { kind: 'answer', isCached: true })
  const submitted = await client.submit('copilot', { prompt: 'job' }, { idempotencyKey: 'k' })
  const again = await client.submit('copilot', { prompt: 'job' }, { idempotencyKey: 'k' })
  t.match(
    [submitted, again],
    [
      { kind: 'promise', credits: 3 },
      { kind: 'promise', credits: 0 },
    ],
  )
  t.match(await client.job('11111111-1111-4111-8111-111111111111'), {
    kind: 'error',
    status: 404,
    detail: /Job not found/,
  })
})

void t.test('the client: patience ends the wait, a signal hangs up', async (t) => {
  const proxy = await aProxy(t)
  const { sim, clock } = proxy
  const client = clientOf(t, proxy)
  sim.script({ prompt: 'slow' }, ['hold'])
  const asking = client.ask('chatgpt', { prompt: 'slow' }, { patienceSeconds: 5 })
  await sim.received(1)
  clock.skip(5_000)
  t.match(await asking, { kind: 'refusal', code: 'DEADLINE_EXCEEDED' })
  const hangUp = new AbortController()
  const left = client.ask('chatgpt', { prompt: 'slow' }, { signal: hangUp.signal })
  hangUp.abort()
  await t.rejects(left, { name: 'AbortError' })
})
