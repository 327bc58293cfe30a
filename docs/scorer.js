// What people search for is a guide first, then a reference; a benchmark or the inside of the library last.
var Scorer = {
  score: (result) => {
    const [docname, , , , score, , kind] = result;
    let found = score;
    if (kind === "index") found += 60; // a page that says of itself that it is about this word
    else if (docname.startsWith("howto/") || docname.startsWith("concepts/")) found += 8;
    else if (docname.startsWith("reference/core") || docname.startsWith("reference/runtime")) found -= 25;
    else if (docname.startsWith("benchmarks/")) found -= 20;
    return found;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
