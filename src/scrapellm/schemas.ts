/**
 * The vendor's documents as JSON Schema (2020-12), for the description of the API: docs/vendor-api.md, "Answers" and "Jobs". A description and
 * no check: an answer in another shape is handed on, so every object may have more members, and only what every answer has is required.
 */
import { scrapers } from './endpoints.ts'

export type Schema = Readonly<Record<string, unknown>>
export type Scraper = (typeof scrapers)[number]

const text: Schema = { type: 'string' }
const number: Schema = { type: 'number' }
const texts = listOf(text)

const page = { title: text, url: text }
const citation = objectOf({
  ...page,
  snippet: text,
  highlights: texts,
  website_name: text,
  favicon: { type: ['string', 'null'] },
})
const sitePage = objectOf({ ...page, snippet: text, website_name: text })
const post = objectOf({ ...page, preview: text })
const link = objectOf({ text, url: text })
const model = { llm_model: text }

const common = {
  scraper: { type: 'string', enum: scrapers },
  status: { type: 'string', const: 'done' },
  job_id: text,
  prompt: text,
  country: text,
  result: { type: 'string', description: 'Plain text.' },
  result_markdown: text,
  credits_used: { type: 'integer', description: '0 for an answer that the proxy had kept or shared.' },
  elapsed_ms: number,
  cached: { type: 'boolean', description: 'True also for an answer that the proxy had kept or shared.' },
  markdown_url: { type: 'string', description: 'A hosted copy; gone after 24 hours.' },
}

/** What each scraper adds. Those of the last four are known from other clients only. */
const own: Readonly<Record<Scraper, Readonly<Record<string, Schema>>>> = {
  chatgpt: { links: listOf(link), search_queries: texts, ...model },
  perplexity: { sources: listOf(objectOf({ ...page, snippet: text })), related_questions: texts },
  grok: { web_sources: listOf(post), x_results: listOf(post) },
  copilot: { citations: listOf(citation), links: listOf({ anyOf: [text, link] }) },
  gemini: { citations: listOf(citation), ...model },
  google_ai_mode: { citations: listOf(citation), search_results: listOf(sitePage) },
  amazon_rufus: {
    products: listOf(objectOf({ asin: text, title: text, url: text, rating: text, reviews: text })),
    related_questions: texts,
  },
}

export function answerSchema(scraper: Scraper): Schema {
  const properties = { ...common, scraper: { type: 'string', const: scraper }, ...own[scraper] }
  return { ...objectOf(properties), required: ['scraper', 'status'] }
}

export const submissionSchema: Schema = {
  ...objectOf({ job_id: text, status: text, scraper: text }),
  required: ['job_id'],
}

export const jobSchema: Schema = {
  ...objectOf({
    job_id: text,
    status: { type: 'string', enum: ['pending', 'done', 'failed'] },
    scraper: common.scraper,
    prompt: text,
    country: text,
    result: {
      $ref: '#/components/schemas/Answer',
      description: 'Once it is done. May lack members that a direct answer has.',
    },
    error: { type: 'string', description: 'Why it failed.' },
    created_at: { type: 'string', format: 'date-time' },
    completed_at: { type: ['string', 'null'], format: 'date-time' },
  }),
  required: ['job_id', 'status'],
}

/** An error of the vendor: a sentence, or the list of what is wrong with each parameter. */
export const errorSchema: Schema = {
  ...objectOf({ detail: { anyOf: [text, listOf(objectOf({ msg: text, type: text }))] } }),
  required: ['detail'],
}

function objectOf(properties: Readonly<Record<string, Schema>>): Schema {
  return { type: 'object', properties }
}

function listOf(items: Schema): Schema {
  return { type: 'array', items }
}
