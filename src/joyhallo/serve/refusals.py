"""What is refused, in the words of the page: commands are taken out, and there is Chinese for all that a visitor can meet."""

import re
from collections.abc import Mapping

# What a message of the program becomes for somebody who has a page and no command line.
_FOR_A_PAGE = (
    (r"(\d+) faces are in the picture: choose .*", r"\1 faces are in the picture: choose below which one speaks"),
    (r"there is no face (\d+): choose .*", r"there is no face \1 in this picture: choose another"),
    (r"(\w+) has too little memory for (\S+) px: .*", r"\1 has too little memory for \2 px: tell whoever runs this service"),
    (r"(.*) \(--[a-z-]+\)$", r"\1"),
)
_READABLE_PICTURE = "请提供 JPEG、PNG、WebP、BMP、TIFF 或 GIF 图片"
_READABLE_SOUND = "请提供 WAV、MP3、M4A、FLAC、OGG、Opus 录音，或有声音的视频"
_CHINESE = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            r"no face was found in the picture \((\S+) px\).*",
            r"在图片（\1 像素）中没有找到人脸：请换一张正面、露出整张脸的照片",
        ),
        (r"(\d+) faces are in the picture.*", r"图片中有 \1 张人脸：请在下面选择由谁说话"),
        (r"there is no face (\d+).*", "图片中没有这张人脸：请另选一张"),
        (r"the face is (\S+) px high, (\S+) px are needed.*", r"人脸只有 \1 像素高，至少需要 \2 像素：请提供人脸更大的图片"),
        (r"the head is turned (\S+)° to the side, up to (\S+)°.*", r"头部侧转了 \1°，最多可以 \2°：请换一张更正面的照片"),
        (r".*is HEIC or AVIF.*", "图片是 HEIC 或 AVIF 格式：请另存为 PNG 或 JPEG"),
        (r".*is a video, but a still picture is needed.*", "这是视频，而这里需要静态图片：请截取一帧，存为 PNG"),
        (r".*is not a picture that can be read.*", f"这个文件不是可以读取的图片：{_READABLE_PICTURE}"),
        (r"the p\w+ is broken or cut short.*", "图片已损坏或不完整：请重新存为 PNG 或 JPEG"),
        (r".* has (\S+) px, more than (\S+) megapixels.*", r"图片为 \1 像素，超过 \2 百万像素：请先缩小"),
        (r".* has (\S+) px, but each side needs (\S+) px.*", r"图片为 \1 像素，每边至少需要 \2 像素：请换一张更大的"),
        (r"the (?:picture|portrait).* has (\S+) [MG]B.*", "图片文件太大：请换一个更小的"),
        (r"the portrait has more than (\S+) MB.*", r"人像文件超过 \1 MB：请换一个更小的"),
        (r"the speech has more than (\S+) MB.*", r"录音文件超过 \1 MB：请换一个更短的"),
        (r".*has no sound in it.*", f"文件里没有声音：{_READABLE_SOUND}"),
        (r"the speech is silent.*|the speech .*is nearly silent.*", "录音里几乎没有声音：请提供有人说话的录音"),
        (r"the speech lasts more than (\S+) s, which.*", r"录音超过 \1 秒，这是此处的上限：请换一段更短的"),
        (r"the speech .*lasts (\S+) s, but (\S+) s are needed.*", r"录音只有 \1 秒，至少需要 \2 秒：请换一段更长的"),
        (r"nothing in the sound.*|the sound of .*|.*is not a recording.*", f"无法读取这段声音：{_READABLE_SOUND}"),
        (r"the file broke the reader.*", "文件无法读取：请用常见格式重新保存后再试"),
        (r"the file needs too much memory.*", "处理这个文件需要的内存太多：请换一个更小的"),
        (r"reading the file took more than (\S+) s.*", r"读取文件超过了 \1 秒：请换一个更小的"),
        (
            r"(\d+) of your jobs are unfinished, (\d+) are allowed.*",
            r"您有 \1 个视频尚未完成，最多允许 \2 个：请等待或停止其中一个",
        ),
        (r"(\d+) jobs are waiting.*", r"已有 \1 个视频在排队，暂不接收新的：请稍后再试"),
        (r"the disk space for jobs is used up.*", "存储空间已被排队中的视频占满：请稍后再试"),
        (r"the text has (\d+) characters: give 1 to (\d+)", r"文字有 \1 个字符：请输入 1 到 \2 个"),
        (r"the voice took more than (\S+) s.*", r"朗读超过了 \1 秒：请缩短文字"),
        (r"the voice (.+) could not speak the text.*", r"语音“\1”无法朗读这段文字：请换一段文字或另一个语音"),
        (r".*has too little memory for.*", "服务器内存不足，无法生成：请联系运行此服务的人"),
        (r"rendering broke (\d+) times.*", r"生成过程出错 \1 次，已放弃：请联系运行此服务的人"),
        (r"the service stopped (\d+) times.*", r"服务在生成这个视频时停止了 \1 次，已放弃：请联系运行此服务的人"),
    )
)


def on_page(note: str, words: Mapping[str, str]) -> str:
    """A message of the program as a page in the language of `words` says it; `note` is in English."""
    note = " ".join(note.split())
    for pattern, replacement in _FOR_A_PAGE:
        note = re.sub(f"^{pattern}", replacement, note)
    if words["language"] != "zh":
        return note
    for known, chinese in _CHINESE:
        if found := known.fullmatch(note):
            return found.expand(chinese)
    return f"{words['reason']}{note}"


def is_choice_of_faces(note: str) -> bool:
    """A picture is refused only because nobody said which of its faces is meant."""
    return re.match(r"\d+ faces are in the picture", note) is not None
