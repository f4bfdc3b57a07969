/** How many uniform writes it takes to dirty so many different pages. */

/**
 * Expected steps until `dirtyPages` of `pages` were written: each write leaves a page clean with
 * probability 1 - 1/pages, so pages·(1 - e^(-steps/pages)) are dirty in the mean.
 */
export function stepsForPages(dirtyPages: number, pages: number): number {
  return -pages * Math.log(1 - dirtyPages / pages);
}
