// The pages of a chunk that some row of a unit sees, and their memory, fetched ahead of being read.
// Included by each unit inside its anonymous namespace, after layout.h and table.h.
#pragma once

constexpr int kLinesAhead = 160;
constexpr int kLineBytes = 64;
constexpr uint32_t kWholePage = (1u << kPageTokens) - 1;

// A page that some row sees a token of.
struct SeenPage {
  const uint8_t* keys;
  const uint8_t* values;
  int first_token;  // of the chunk
  uint32_t tokens;  // a bit each: some row sees it
  bool by_all;      // every row sees every token
};

// The tokens [first, last) of a chunk that lie in a page, a bit each.
inline uint32_t tokens_of_page(int first, int last, int first_token) {
  int begin = first - first_token;
  int end = last - first_token;
  if (begin < 0) begin = 0;
  if (end > kPageTokens) end = kPageTokens;
  return begin < end ? (1u << end) - (1u << begin) : 0;
}

struct SeenPages {
  SeenPage pages[kChunkPages];
  int count = 0;

  explicit SeenPages(const ChunkTask& task) {
    int begin = kChunkTokens;  // of all rows together
    int end = 0;
    int common_begin = 0;  // of what every row sees
    int common_end = kChunkTokens;
    bool all_see = true;
    for (int r = 0; r < task.height; ++r) {
      const int first = task.first[r];
      const int last = task.last[r];
      if (first >= last) {
        all_see = false;
        continue;
      }
      if (first < begin) begin = first;
      if (last > end) end = last;
      if (first > common_begin) common_begin = first;
      if (last < common_end) common_end = last;
    }
    for (int page = begin / kPageTokens; page * kPageTokens < end; ++page) {
      const int first_token = page * kPageTokens;
      // Rows that have a token in common leave no gap between them.
      uint32_t tokens = tokens_of_page(begin, end, first_token);
      if (common_begin >= common_end) tokens = tokens_of_any(task, first_token);
      if (tokens == 0) continue;
      const bool by_all =
          all_see && tokens_of_page(common_begin, common_end, first_token) == kWholePage;
      pages[count++] = {task.keys[page], task.values[page], first_token, tokens, by_all};
    }
  }

  static uint32_t tokens_of_any(const ChunkTask& task, int first_token) {
    uint32_t tokens = 0;
    for (int r = 0; r < task.height; ++r) {
      tokens |= tokens_of_page(task.first[r], task.last[r], first_token);
    }
    return tokens;
  }

  // The same pages as one row sees them.
  SeenPages(const SeenPages& all, int first, int last) : count(all.count) {
    for (int i = 0; i < count; ++i) {
      pages[i] = all.pages[i];
      pages[i].tokens &= tokens_of_page(first, last, pages[i].first_token);
    }
  }
};

// Fetches memory into the cache in the order in which this unit and the next one read it, a few
// pages ahead and at the pace at which they are read: memory is the bottleneck of decoding. A
// processor does not foresee where the next page lies, and has read half of it before it sees that
// it is read in order; and it drops what is asked for faster than memory answers.
class Stream {
 public:
  Stream(const ChunkTask& task, const SeenPages& seen, int64_t page_bytes)
      : page_bytes_(page_bytes) {
    for (int i = 0; i < seen.count; ++i) pages_[count_++] = seen.pages[i].keys;
    for (int i = 0; i < seen.count; ++i) pages_[count_++] = seen.pages[i].values;
    for (int i = 0; i < task.num_next_keys; ++i) {
      if (task.next_keys[i] != nullptr) pages_[count_++] = task.next_keys[i];
    }
    if (count_ == 0) return;
    start(0);
    for (int i = 0; i < kLinesAhead; i += 4) fetch(4);
  }

  int64_t lines_of_page() const { return (page_bytes_ + kLineBytes - 1) / kLineBytes; }

  // The next few lines. At the end it stays where it is.
  void fetch(int64_t lines) {
    for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(at_ + i * kLineBytes);
    at_ += lines * kLineBytes;
    if (at_ >= end_) start(index_ + 1 < count_ ? index_ + 1 : index_);
  }

 private:
  void start(int index) {
    index_ = index;
    at_ = pages_[index];
    end_ = at_ + page_bytes_;
  }

  const uint8_t* pages_[3 * kChunkPages];
  int count_ = 0;
  int index_ = 0;
  int64_t page_bytes_;
  const uint8_t* at_ = nullptr;
  const uint8_t* end_ = nullptr;
};
