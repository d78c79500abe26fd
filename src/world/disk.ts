/**
 * What survives a restart, for one process on one machine, as two files: the answers at the path that is configured, and the
 * records (money, jobs, key rests) in `records.db` beside it. The process that holds the records owns the folder; another one waits
 * for it and touches neither file. Nothing here throws for trouble with a file.
 */
import { dirname, join } from 'node:path'
import type { Clock, Disk, DiskOptions, Emit } from '../ports.ts'
import { createAnswerFile } from './disk-answers.ts'
import { createRecordFile, syncFile } from './disk-records.ts'

export function createDisk(options: DiskOptions, clock: Clock, emit: Emit, sync = syncFile): Disk {
  const { path } = options
  const answers = createAnswerFile(options, clock, emit)
  const records = createRecordFile(
    { path: join(dirname(path), 'records.db'), importFrom: path, sync, onOwned: answers.open },
    clock,
    emit,
  )
  records.open()

  return {
    readEntry: answers.readEntry,
    writeEntry: answers.writeEntry,
    purge: answers.purge,
    put: records.put,
    secure: records.secure,
    get: records.get,
    list: records.list,
    onRead: records.onRead,
    get isRead() {
      return records.isRead
    },
    get records() {
      return records.records
    },
    get answers() {
      return answers.answers
    },
    get entries() {
      return answers.entries
    },
    get bytes() {
      return answers.bytes
    },
    close() {
      answers.close()
      records.close()
    },
  }
}
