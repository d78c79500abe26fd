/**
 * What a child process, a server or a folder is ended with. A test of tap is one; a command of its own makes one, so that
 * tests and the long rounds beside them start things in the same way.
 */
export interface Scope {
  teardown(job: () => unknown): void
}

export interface OwnScope extends Scope {
  /** The last first. Every job is done, whatever the others throw; what was thrown first is thrown in the end. */
  end(): Promise<void>
}

export function createScope(): OwnScope {
  const jobs: (() => unknown)[] = []
  return {
    teardown: (job) => void jobs.push(job),
    async end() {
      const thrown: unknown[] = []
      for (let job = jobs.pop(); job; job = jobs.pop()) {
        try {
          await job()
        } catch (error) {
          thrown.push(error)
        }
      }
      if (thrown.length > 0) throw thrown[0]
    },
  }
}
