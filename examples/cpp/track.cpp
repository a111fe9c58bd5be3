// An exported tracker in a program without Python: raw frames in, a line a track out.
//
//   track tracker.onnx                     prints the height and width that frames must fit
//   track tracker.onnx HEIGHT WIDTH [draw] tracks frames of RGB bytes from standard input
//
// A line holds frame, id, class, score and the box in pixels: x1 y1 x2 y2. With `draw`
// the frames leave by standard output, masks painted in, and the lines by standard error.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <openvino/frontend/manager.hpp>
#include <openvino/op/topk.hpp>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const std::string kMemory = "memory_", kNew = "new_memory_";

struct Track {
  std::int32_t id, label;
  float score;
  const float* box;   // xyxy, pixels
  const float* mask;  // [side side], probability over the cells of the box
  std::size_t side;
};

// What the file says of itself is json: flat lists of numbers, and one of texts.
std::vector<long> numbers(const std::string& json) {
  std::vector<long> found;
  for (std::size_t at = 0; (at = json.find_first_of("0123456789", at)) != json.npos;) {
    std::size_t length;
    found.push_back(std::stol(json.substr(at), &length));
    at += length;
  }
  return found;
}

std::vector<std::string> texts(const std::string& json) {  // in json's own spelling
  std::vector<std::string> found;
  for (std::size_t at = 0; (at = json.find('"', at)) != json.npos; ++at) {
    const std::size_t begin = ++at;
    for (; json.at(at) != '"'; ++at)
      if (json[at] == '\\') ++at;
    found.push_back(json.substr(begin, at - begin));
  }
  return found;
}

class Tracker {
 public:
  explicit Tracker(const std::string& path) {
    const auto reader = ov::frontend::FrontEndManager().load_by_framework("onnx");
    const auto model = reader->convert(reader->load(path));
    for (const auto& node : model->get_ops())  // of equal entries the first, as in ONNX
      if (const auto top = ov::as_type_ptr<ov::op::v11::TopK>(node)) top->set_stable(true);
    if (!model->has_rt_info("framework"))
      throw std::runtime_error(path + " is no tracker of stan export");
    const auto& about = model->get_rt_info<ov::AnyMap>("framework");
    const auto said = [&](const std::string& name) {
      const auto found = about.find(name);
      if (found == about.end())
        throw std::runtime_error(path + " is no tracker of stan export");
      return found->second.as<std::string>();
    };
    if (said("format") != "1" || said("clip") != "null")
      throw std::runtime_error(path + " takes other inputs than a frame at a time");
    canvas_ = numbers(said("canvas"));
    const auto scale = numbers(said("scale_hw"));
    const auto [low, high] = std::minmax(scale.at(0), scale.at(1));
    const bool portrait = canvas_.at(0) > canvas_.at(1);
    most_ = {std::min(portrait ? high : low, canvas_[0]),
             std::min(portrait ? low : high, canvas_[1])};
    classes_ = texts(said("classes"));
    const ov::AnyMap how = {ov::hint::inference_precision(ov::element::f32),
                            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                            // These kernels compute nonsense in OpenVINO 2026.4.
                            {"SNIPPETS_MODE", "DISABLE"}};
    request_ = ov::Core().compile_model(model, "CPU", how).create_infer_request();
    for (const auto& input : model->inputs()) {
      const std::string name = input.get_any_name();
      if (name.rfind(kMemory, 0) != 0) continue;
      memory_.push_back(name.substr(kMemory.size()));
      ov::Tensor zeros = request_.get_tensor(name);
      std::fill_n(static_cast<char*>(zeros.data()), zeros.get_byte_size(), 0);
    }
  }

  const std::vector<long>& most() const { return most_; }  // height, width of a frame
  const std::string& name(std::int32_t label) const { return classes_.at(label); }

  // Tracks of the next frame, best first, good until the call after. rgb: [height width 3].
  std::vector<Track> step(const std::vector<std::uint8_t>& rgb, long height, long width) {
    auto* canvas = request_.get_tensor("frame").data<std::uint8_t>();
    std::fill_n(canvas, 3 * canvas_[0] * canvas_[1], 0);
    for (long y = 0; y < height; ++y)
      std::copy_n(&rgb[3 * width * y], 3 * width, canvas + 3 * canvas_[1] * y);
    auto* size = request_.get_tensor("size_hw").data<std::int32_t>();
    size[0] = height, size[1] = width;
    // Runs over after a day; the memory takes differences.
    const std::uint32_t now = 1000 * seen_++;
    *request_.get_tensor("clock").data<std::int32_t>() = static_cast<std::int32_t>(now);
    request_.infer();
    for (const auto& name : memory_)
      request_.get_tensor(kNew + name).copy_to(request_.get_tensor(kMemory + name));
    return rows();
  }

 private:
  std::vector<Track> rows() {
    const auto ids = request_.get_tensor("ids"), masks = request_.get_tensor("masks");
    const auto* valid = request_.get_tensor("valid").data<bool>();
    const auto* labels = request_.get_tensor("labels").data<std::int32_t>();
    const auto* scores = request_.get_tensor("scores").data<float>();
    const auto* boxes = request_.get_tensor("boxes").data<float>();
    const std::size_t side = masks.get_shape().back();
    const auto* id = ids.data<std::int32_t>();
    std::map<std::int32_t, std::size_t> last;  // of rows with one id the last one counts
    for (std::size_t n = 0; n < ids.get_size(); ++n)
      if (valid[n]) last[id[n]] = n;
    std::vector<Track> found;
    for (std::size_t n = 0; n < ids.get_size(); ++n)
      if (valid[n] && last[id[n]] == n)
        found.push_back({id[n], labels[n], scores[n], boxes + 4 * n,
                         masks.data<float>() + side * side * n, side});
    return found;
  }

  std::vector<long> canvas_, most_;
  std::vector<std::string> classes_, memory_;
  ov::InferRequest request_;
  std::uint32_t seen_ = 0;
};

// Paint the pixels where the mask, stretched over its box, is at least 0.5.
void draw(std::vector<std::uint8_t>& rgb, long height, long width, const Track& track) {
  const float* box = track.box;
  const long side = track.side;
  const float cell_w = (box[2] - box[0]) / side, cell_h = (box[3] - box[1]) / side;
  if (!(cell_w > 0 && cell_h > 0)) return;
  const auto cell = [&](long row, long column) {
    const bool inside = row >= 0 && row < side && column >= 0 && column < side;
    return inside ? track.mask[row * side + column] : 0.0f;
  };
  const std::uint32_t hash = (track.id + 1) * 2654435761u;
  const auto pixel = [](float x, long limit) { return std::clamp(long(x), 0l, limit); };
  const long bottom = pixel(std::ceil(box[3] + cell_h / 2), height);
  const long right = pixel(std::ceil(box[2] + cell_w / 2), width);
  for (long y = pixel(std::floor(box[1] - cell_h / 2), height); y < bottom; ++y)
    for (long x = pixel(std::floor(box[0] - cell_w / 2), width); x < right; ++x) {
      const float row = (y + 0.5f - box[1]) / cell_h - 0.5f;
      const float column = (x + 0.5f - box[0]) / cell_w - 0.5f;
      const float i = std::floor(row), j = std::floor(column), v = row - i, u = column - j;
      const float above = cell(i, j) * (1 - u) + cell(i, j + 1) * u;
      const float below = cell(i + 1, j) * (1 - u) + cell(i + 1, j + 1) * u;
      if (above * (1 - v) + below * v < 0.5f) continue;
      for (int channel = 0; channel < 3; ++channel) {
        std::uint8_t& value = rgb[3 * (y * width + x) + channel];
        value = (value + (hash >> (8 * channel) & 255)) / 2;
      }
    }
}

int run(int count, char** words) {
  if (count != 2 && count != 4 && !(count == 5 && std::string(words[4]) == "draw")) {
    std::cerr << "usage: track tracker.onnx [HEIGHT WIDTH [draw]]\n";
    return 2;
  }
  Tracker tracker(words[1]);
  const auto& most = tracker.most();
  if (count == 2) {
    std::cout << most[0] << ' ' << most[1] << '\n';
    return 0;
  }
  const auto number = [](const char* word) {
    char* end;
    const long found = std::strtol(word, &end, 10);
    return *end ? 0 : found;
  };
  const long height = number(words[2]), width = number(words[3]);
  if (height < 1 || width < 1 || height > most[0] || width > most[1])
    throw std::runtime_error("height and width of frames: 1 1 to " + std::to_string(most[0]) +
                             ' ' + std::to_string(most[1]));
  std::ostream& lines = count == 5 ? std::cerr : std::cout;
  std::vector<std::uint8_t> rgb(3 * height * width);
  std::size_t read = 0;
  for (long t = 0; (read = std::fread(rgb.data(), 1, rgb.size(), stdin)) == rgb.size(); ++t) {
    for (const Track& track : tracker.step(rgb, height, width)) {
      lines << t << ' ' << track.id << " \"" << tracker.name(track.label) << "\" " << track.score;
      for (int n = 0; n < 4; ++n) lines << ' ' << track.box[n];
      lines << '\n';
      if (count == 5) draw(rgb, height, width, track);
    }
    if (count == 5) std::fwrite(rgb.data(), 1, rgb.size(), stdout);
  }
  lines.flush();
  if (!lines || std::fflush(stdout) || std::ferror(stdout))
    throw std::runtime_error("the output cannot be written");
  if (std::ferror(stdin)) throw std::runtime_error("the input cannot be read");
  if (read) throw std::runtime_error("the last frame is cut: " + std::to_string(read) + " bytes");
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::string said = error.what();  // OpenVINO gives the cause last, and empty lines
    said.erase(said.find_last_not_of("\n ") + 1);
    std::cerr << "track: " << said.substr(said.rfind('\n') + 1) << '\n';
    return 1;
  }
}
