/** `GET /report?month=2026-11&format=csv` of the admin port: what each client had and paid in a month. */
import { ProxyError } from '../errors.ts'
import { type AdminRoute, json } from './admin.ts'

export interface MonthReport {
  readonly asJson: () => object
  readonly asCsv: () => string
}

interface ReportPorts {
  /** `month` is like `2026-11`. */
  readonly reportOf: (month: string) => MonthReport | Promise<MonthReport>
  readonly thisMonth: () => string
}

export function createReportRoute({ reportOf, thisMonth }: ReportPorts): AdminRoute {
  return {
    method: 'GET',
    path: '/report',
    async run({ params }) {
      const month = params.get('month') ?? thisMonth()
      if (!/^\d{4}-(0[1-9]|1[0-2])$/.test(month))
        throw new ProxyError('REQUEST_INVALID', 'month must look like 2026-11.')
      const format = params.get('format') ?? 'json'
      if (format !== 'json' && format !== 'csv') throw new ProxyError('REQUEST_INVALID', 'format must be csv or json.')
      const report = await reportOf(month)
      if (format === 'json') return json(report.asJson())
      return { status: 200, contentType: 'text/csv; charset=utf-8', body: report.asCsv() }
    },
  }
}
