// The bodies of answered questions, per scraper as docs/vendor-api.md, "Answers", lists their members.
// Deterministic: the text names the prompt and the number of the call, so a fresh answer differs from a kept one.

import { flagOf } from './call.ts'
import type { RecordedRequest } from './request.ts'
import type { Switches } from './switches.ts'

export type Body = Readonly<Record<string, unknown>>

export interface Answering {
  readonly request: RecordedRequest
  readonly callNumber: number
  readonly jobId: string
  readonly credits: number
  readonly elapsedMs: number
  readonly answeredAt: number
}

const PADDING = ' Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt.'

export function answerOf(answering: Answering, switches: Switches): Body {
  const { request, callNumber, jobId } = answering
  const own = ownFields(answering, switches)
  const result = padded(`Answer of ${request.scraper} to "${request.prompt}", call ${callNumber} [1].`, switches)
  const texts = { result, result_markdown: `**Answer** of ${request.scraper}, call ${callNumber}: ${result}` }
  const isRufus = request.scraper === 'amazon_rufus'
  return {
    scraper: request.scraper,
    status: 'done',
    job_id: jobId,
    prompt: request.prompt,
    country: request.country ?? 'US',
    ...(isRufus ? {} : texts),
    ...own,
    credits_used: answering.credits,
    elapsed_ms: answering.elapsedMs,
    cached: false,
    ...(isRufus ? {} : { markdown_url: `https://scrapellm.com/md/${jobId}.md` }),
    ...(switches.optionalFields ? optionalFields(answering) : {}),
  }
}

/** The result of a job: the documented example leaves some fields of the sync answer out. */
export function jobResultOf(body: Body, switches: Switches): Body {
  if (switches.jobResult === 'full') return body
  const { job_id: _id, prompt: _prompt, country: _country, result_markdown: _md, markdown_url: _url, ...rest } = body
  return rest
}

function ownFields({ request, callNumber }: Answering, switches: Switches): Body {
  const site = `https://example.com/${request.scraper}/${callNumber}`
  const page = { title: `Page of call ${callNumber}`, url: `${site}/a` }
  const cited = { ...page, snippet: 'Half a sentence', website_name: 'Example' }
  const citation = { ...cited, highlights: ['Half'], favicon: null }
  const related = [`What else about ${request.prompt}?`]
  switch (request.scraper ?? '') {
    case 'chatgpt':
      return {
        links: [{ url: page.url, text: page.title }],
        search_queries: [`${request.prompt}`],
        llm_model: 'gpt-4o',
        // The vendor does not say what the added field is called.
        ...(flagOf(request, 'markdown_json', false) ? { markdown_json: [{ type: 'paragraph', children: [] }] } : {}),
      }
    case 'perplexity': {
      const sources = flagOf(request, 'web_search', true) ? [{ ...page, snippet: 'Half a sentence' }] : []
      return { sources, related_questions: related }
    }
    case 'gemini':
      return { citations: [citation], llm_model: 'gemini-2.0-flash' }
    case 'copilot': {
      const link = `${site}/b`
      return { citations: [citation], links: switches.copilotLinks === 'strings' ? [link] : [{ text: 'B', url: link }] }
    }
    case 'grok':
      return {
        web_sources: [{ ...page, preview: 'Half a sentence' }],
        x_results: [{ title: 'A post', url: `${site}/x`, preview: 'Half a post' }],
      }
    case 'google_ai_mode':
      return { citations: [cited], search_results: [{ ...cited, url: `${site}/s` }] }
    default:
      return {
        products: [
          {
            asin: 'B000000001',
            title: `${request.prompt}, call ${callNumber}`,
            url: site,
            rating: '4.4',
            reviews: '1200',
          },
        ],
        related_questions: related,
      }
  }
}

function optionalFields({ jobId, answeredAt }: Answering): Body {
  return { url: `https://example.com/conversation/${jobId}`, created_at: isoOf(answeredAt) }
}

/** The vendor's form of a time: ISO 8601 in seconds with an offset. */
export function isoOf(at: number): string {
  return `${new Date(at).toISOString().slice(0, 19)}+00:00`
}

function padded(text: string, { resultBytes }: Switches): string {
  return text.length >= resultBytes
    ? text
    : text + PADDING.repeat(Math.ceil(resultBytes / PADDING.length)).slice(0, resultBytes - text.length)
}
